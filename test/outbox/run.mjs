/**
 * The campaign's long form and the relay's throughput, from a compiled copy that goes away with it:
 * `npm run test:relay -- [--orders 1000] [--rounds 1] [--seed S] [--events 20000]`.
 */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { compile } from '../campaign/compile.mjs';

const { values } = parseArgs({
  options: {
    orders: { type: 'string', default: '1000' },
    rounds: { type: 'string', default: '1' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    events: { type: 'string', default: '20000' },
  },
});
const options = Object.fromEntries(
  Object.entries(values).map(([name, value]) => [name, Number(value)]),
);
const { folder, remove } = await compile();
try {
  const { runLong } = await import(pathToFileURL(join(folder, 'test/outbox/long.js')).href);
  process.exitCode = (await runLong({ ...options, folder })) ? 0 : 1;
} finally {
  await remove();
}
process.exit();
