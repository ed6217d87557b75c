/**
 * Starts the campaign's long form from a compiled copy, which goes away with it:
 * `node test/campaign/run.mjs [--reads 10000000] [--minutes 60] [--seed 1] [--nodes 3] [--times-divided-by 1]`.
 */
import { pathToFileURL } from 'node:url';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { compile } from './compile.mjs';

const { values } = parseArgs({
  options: {
    reads: { type: 'string', default: '10000000' },
    minutes: { type: 'string', default: '60' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    nodes: { type: 'string', default: '3' },
    'times-divided-by': { type: 'string', default: '1' },
  },
});
const options = Object.fromEntries(Object.entries(values).map(([name, value]) => [name, Number(value)]));
const timesDividedBy = options['times-divided-by'];
const { folder, remove } = await compile({ timesDividedBy });
try {
  const { runLong } = await import(pathToFileURL(join(folder, 'test/campaign/long.js')).href);
  const failed = await runLong({ ...options, timesDividedBy, folder });
  process.exitCode = failed === 0 ? 0 : 1;
} finally {
  await remove();
}
process.exit();
