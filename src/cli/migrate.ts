/**
 * `holdfast migrate`: brings the database up to date, or back by one migration, under the advisory
 * lock that the nodes of the service take too (platform/database/migrate.ts).
 */
import { loadConfig } from '../config.js';
import { migrateDatabase } from '../platform/database/migrate.js';
import { parseArguments } from './arguments.js';
import { CommandError } from './command.js';
import { withDatabase } from './database.js';

export const USAGE = `holdfast migrate [up | down]
  up    run every pending migration (the default)
  down  revert the last migration`;

type Direction = 'up' | 'down';

const REPORTS: Readonly<Record<Direction, { each: string; none: string }>> = {
  up: { each: 'Ran', none: 'Nothing to run: the database is up to date' },
  down: { each: 'Reverted', none: 'Nothing to revert' },
};

export async function run(args: string[]): Promise<number> {
  const { words } = parseArguments(args, { usage: USAGE, maxWords: 1 });
  const [direction = 'up'] = words;
  if (!isDirection(direction)) {
    throw new CommandError(`the argument must be "up" or "down", not "${direction}"`, 2);
  }
  const names = await withDatabase(loadConfig(), (url) => migrateDatabase(url, direction));
  const { each, none } = REPORTS[direction];
  for (const name of names) console.log(`${each} ${name}`);
  if (names.length === 0) console.log(none);
  return 0;
}

const isDirection = (word: string): word is Direction => Object.hasOwn(REPORTS, word);
