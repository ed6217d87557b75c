/**
 * Runs an operator command in the process of the test, with an environment of its own. A process of
 * its own takes seconds: a few tests of each command start one.
 */
import { type Command, runCommand } from '../../src/cli/command.js';

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** @param name as a person calls it, e.g. `holdfast orders` */
export async function runCommandHere(
  name: string,
  command: Command,
  words: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): Promise<CommandResult> {
  const [stdout, stderr]: [string[], string[]] = [[], []];
  const own = {
    env: process.env,
    log: console.log,
    out: process.stdout.write,
    err: process.stderr.write,
  };
  process.env = { PATH: own.env.PATH, TMPDIR: own.env.TMPDIR, ...env };
  console.log = (line: string) => stdout.push(`${line}\n`);
  process.stdout.write = (text: string | Uint8Array) => stdout.push(String(text)) > 0;
  process.stderr.write = (text: string | Uint8Array) => stderr.push(String(text)) > 0;
  try {
    const code = await runCommand(name, command, [...words]);
    return { code, stdout: stdout.join(''), stderr: stderr.join('') };
  } finally {
    process.env = own.env;
    console.log = own.log;
    process.stdout.write = own.out;
    process.stderr.write = own.err;
  }
}
