/** The service as `npm run build` made it, for benchmarks and for the test of Swagger UI. */
import { existsSync } from 'node:fs';
import { CommandError } from '../../src/cli/command.js';
import { type RunningProgram, startProgram } from './child-process.js';

const ENTRY = 'dist/main.js';

export interface BuiltService extends RunningProgram {
  readonly url: string;
}

/**
 * Starts the service on a free port.
 * @param env its environment, with at least DATABASE_URL or DATA_DIR
 * @throws CommandError when it was not built
 */
export async function startBuiltService(
  env: Readonly<Record<string, string>>,
): Promise<BuiltService> {
  if (!existsSync(ENTRY)) {
    throw new CommandError(`${ENTRY} is missing. Run \`npm run build\` first.`);
  }
  const program = await startProgram({
    command: process.execPath,
    args: ['--enable-source-maps', ENTRY],
    env: { PORT: '0', LOG_FORMAT: 'json', ...env },
    readyPattern: /API (http:\S+)\/v1/,
  });
  return { ...program, url: program.ready[1] as string };
}
