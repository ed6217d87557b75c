#!/usr/bin/env node
/**
 * The entry point of the operator commands: `holdfast <command> [arguments]`, in the image
 * `node dist/cli/main.js <command>`. A command is loaded only when it is named, so that `--help`
 * needs no configuration and no database.
 */
import 'reflect-metadata';
import { type Command, CommandError, reportFailure, runCommand } from './command.js';

interface CommandEntry {
  /** One line for `holdfast --help`. */
  readonly summary: string;
  readonly load: () => Promise<Command>;
}

const COMMANDS: Readonly<Record<string, CommandEntry>> = {
  inbox: {
    summary: 'list the events that a consumer cannot handle; retry or skip them',
    load: () => import('./inbox.js'),
  },
  migrate: {
    summary: 'run the pending database migrations, or revert the last one',
    load: () => import('./migrate.js'),
  },
  orders: {
    summary: 'refund a shipped order that was lost on its way',
    load: () => import('./orders.js'),
  },
  outbox: {
    summary: 'list the events that the broker rejected; retry or skip them',
    load: () => import('./outbox.js'),
  },
  'rebuild-orders': {
    summary: 'compare orders with their events, and repair what differs',
    load: () => import('./rebuild-orders.js'),
  },
};

function help(): string {
  const width = Math.max(...Object.keys(COMMANDS).map((name) => name.length));
  const lines = Object.entries(COMMANDS).map(
    ([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}`,
  );
  return `usage: holdfast <command> [arguments]\n${lines.join('\n')}
  holdfast <command> --help explains a command. The settings come from the environment, as for the
  service: DATABASE_URL, or the embedded PostgreSQL in DATA_DIR.\n`;
}

async function main([name, ...args]: string[]): Promise<number> {
  if (name === '--help' || name === '-h') {
    process.stdout.write(help());
    return 0;
  }
  const entry = name !== undefined && Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (name === undefined || !entry) {
    const problem = name === undefined ? 'no command given' : `unknown command "${name}"`;
    const names = Object.keys(COMMANDS).join(', ');
    return reportFailure('holdfast', new CommandError(`${problem}; use one of: ${names}`, 2));
  }
  return runCommand(`holdfast ${name}`, await entry.load(), args);
}

void main(process.argv.slice(2)).then((exitCode) => {
  process.exitCode = exitCode;
});
