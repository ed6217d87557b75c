/**
 * `npm run migrate`: brings the database of the environment (DATABASE_URL, or the embedded one in DATA_DIR) up to date, or
 * back by one migration, under the lock that the service's nodes take too (src/database/migrate.ts).
 */
import 'reflect-metadata';
import { loadConfig } from '../src/config.js';
import { migrateDatabase } from '../src/database/migrate.js';
import { command, CommandError, readArguments, withDatabase } from './command.js';

const USAGE = `npm run migrate [-- up | down]
  up    run every migration that the database has not seen (what happens without an argument)
  down  revert the last one`;

await command('migrate', async () => {
  const { words } = readArguments(USAGE, [], 1);
  const [direction = 'up'] = words;
  if (direction !== 'up' && direction !== 'down')
    throw new CommandError(`the argument must be "up" or "down", not "${direction}"`, 2);

  const names = await withDatabase(loadConfig(), (url) => migrateDatabase(url, direction));
  for (const name of names) console.log(`${direction === 'up' ? 'Ran' : 'Reverted'} ${name}`);
  if (names.length === 0)
    console.log(
      direction === 'up' ? 'Nothing to run: the database is up to date' : 'Nothing to revert',
    );
  return 0;
});
