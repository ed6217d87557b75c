/**
 * The entry point of the operator commands, run as an operator runs it: its help, its exit codes
 * and its messages. It needs no configuration for help, and no development dependency for anything.
 */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { compile } from '../../scripts/compile.mjs';
import { freePort } from '../support/free-port.js';
import { createTestDatabase, type TestDatabase } from '../support/postgres.js';

const COMMANDS = ['inbox', 'migrate', 'orders', 'outbox', 'rebuild-orders'];

let compiled: Awaited<ReturnType<typeof compile>>;
let database: TestDatabase;

beforeAll(async () => {
  compiled = await compile();
  database = await createTestDatabase();
});
afterAll(async () => {
  await database?.drop();
  await compiled?.remove();
});

interface Result {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `holdfast` with nothing in the environment but PATH and `env`. */
function holdfast(
  args: string[],
  env: Record<string, string> = {},
  nodeOptions: string[] = [],
): Promise<Result> {
  const program = join(compiled.folder, 'src/cli/main.js');
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [...nodeOptions, program, ...args],
      { env: { PATH: process.env.PATH, ...env } },
      (_, stdout, stderr) => resolve({ exitCode: child.exitCode ?? -1, stdout, stderr }),
    );
  });
}

/** A Node option that makes every development dependency impossible to import. */
function withoutDevDependencies(): string[] {
  const manifest = JSON.parse(readFileSync('package.json', 'utf8')) as {
    devDependencies: Record<string, string>;
  };
  const names = JSON.stringify(Object.keys(manifest.devDependencies));
  const hooks = `
    export async function resolve(specifier, context, next) {
      const isHidden = ${names}.some((name) => (specifier + '/').startsWith(name + '/'));
      if (isHidden) throw new Error('a development dependency is imported: ' + specifier);
      return next(specifier, context);
    }`;
  const registration = `
    import { register } from 'node:module';
    register(${JSON.stringify(toDataUrl(hooks))});`;
  return ['--import', toDataUrl(registration)];
}
const toDataUrl = (code: string): string => `data:text/javascript,${encodeURIComponent(code)}`;

describe('holdfast', () => {
  it('--help → lists every command, whatever the environment', async () => {
    const { exitCode, stdout } = await holdfast(['--help'], { PORT: 'not a port' });
    const listed = [...stdout.matchAll(/^ {2}(\S+) {2,}\S/gm)].map(([, name]) => name);
    expect([exitCode, listed]).toEqual([0, COMMANDS]);
  });

  it.each(COMMANDS)('%s --help → explains the command, whatever the environment', async (name) => {
    const { exitCode, stdout } = await holdfast([name, '--help'], { PORT: 'not a port' });
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(new RegExp(`^usage: holdfast ${name}\\b`));
  });

  it.each<[what: string, args: string[], problem: string]>([
    ['without a command', [], 'no command given'],
    ['with an unknown command', ['repair'], 'unknown command "repair"'],
    ['with the name of an object property', ['constructor'], 'unknown command "constructor"'],
  ])('%s → exits with 2 and names the commands in one line', async (_, args, problem) => {
    expect(await holdfast(args)).toEqual({
      exitCode: 2,
      stdout: '',
      stderr: `holdfast: ${problem}; use one of: ${COMMANDS.join(', ')}\n`,
    });
  });

  it.each<[args: string[], message: string]>([
    [['migrate', 'sideways'], 'the argument must be "up" or "down", not "sideways"'],
    [['migrate', 'up', 'down'], "Unexpected argument 'down' (usage: holdfast migrate [up | down])"],
    [['outbox', 'retry'], 'the first word must be list, requeue or skip, not "retry"'],
    [['outbox', 'skip'], 'skip needs the id of an event as list shows it, not ""'],
    [['outbox', 'skip', 'all'], 'skip needs the id of an event as list shows it, not "all"'],
    [['rebuild-orders', 'x'], 'the argument must be "check" or "daily-totals", not "x"'],
    [
      ['rebuild-orders', '--fast'],
      "Unknown option '--fast' (usage: holdfast rebuild-orders [check | daily-totals])",
    ],
  ])('%j → exits with 2 and says in one line what is wrong', async (args, message) => {
    expect(await holdfast(args)).toEqual({
      exitCode: 2,
      stdout: '',
      stderr: `holdfast ${args[0]}: ${message}\n`,
    });
  });

  it('without an answer from PostgreSQL → exits with 1 and names its address', async () => {
    const port = await freePort();
    const env = { DATABASE_URL: `postgres://user@127.0.0.1:${port}/orders` };
    const { exitCode, stderr } = await holdfast(['migrate'], env);
    expect([exitCode, stderr]).toEqual([
      1,
      `holdfast migrate: PostgreSQL does not answer at 127.0.0.1:${port}/orders (ECONNREFUSED): ` +
        'start it, or correct DATABASE_URL\n',
    ]);
  });

  it('with an invalid configuration → exits with 1 and names the variable', async () => {
    const { exitCode, stderr } = await holdfast(['migrate'], { PORT: 'not a port' });
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(/^holdfast migrate: .*\bPORT\b/);
  });
});

describe('holdfast without development dependencies', () => {
  const run = (...args: string[]): Promise<Result> =>
    holdfast(args, { DATABASE_URL: database.url }, withoutDevDependencies());

  it('cannot import one', async () => {
    const { stderr } = await holdfast(['--help'], {}, [
      ...withoutDevDependencies(),
      '--import',
      'cli-progress',
    ]);
    expect(stderr).toContain('a development dependency is imported: cli-progress');
  });

  it('migrate → reports that nothing is pending', async () => {
    expect(await run('migrate')).toMatchObject({
      exitCode: 0,
      stdout: 'Nothing to run: the database is up to date\n',
    });
  });

  it('migrate down, then migrate → reverts the last migration and runs it again', async () => {
    const down = await run('migrate', 'down');
    const up = await run('migrate');
    const [, name] = /^Reverted (\S+)\n$/.exec(down.stdout) ?? [];
    expect([down.exitCode, up.exitCode]).toEqual([0, 0]);
    expect(up.stdout).toBe(`Ran ${name}\n`);
  });

  it('outbox → reports an empty outbox', async () => {
    expect(await run('outbox')).toMatchObject({
      exitCode: 0,
      stdout: '0 events wait for a relay; the broker rejected 0 events\n',
    });
  });

  it('outbox requeue of an unknown event → exits with 1', async () => {
    const id = crypto.randomUUID();
    expect(await run('outbox', 'requeue', id)).toMatchObject({
      exitCode: 1,
      stderr: `holdfast outbox: no rejected event has the id ${id}\n`,
    });
  });

  it('rebuild-orders → compares, repairs and counts the daily totals', async () => {
    const { exitCode, stdout } = await run('rebuild-orders');
    expect(exitCode).toBe(0);
    expect(stdout).toContain('Every order equals the replay of its events');
    expect(stdout).toContain('Counted the daily totals of 0 orders again; 0 changed');
  });
});
