/**
 * What about orders takes longer than a test may, from a compiled copy that goes away with it; each writes its figures:
 * `npm run test:orders -- [--crashes 60] [--seed 1]` into docs/bench/orders.md,
 * `npm run bench:orders -- [--rounds 10] [--orders 100] [--concurrency 8]` into docs/bench/orders-latency.md.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { format, resolveConfig } from 'prettier';
import { compile } from '../campaign/compile.mjs';

const [what, ...args] = process.argv.slice(2);
const number = (value) => ({ type: 'string', default: String(value) });
const { values } = parseArgs({
  args,
  options:
    what === 'bench'
      ? { rounds: number(10), orders: number(100), concurrency: number(8) }
      : { crashes: number(60), seed: number(Date.now() % 1_000_000) },
});
const options = Object.fromEntries(
  Object.entries(values).map(([name, value]) => [name, Number(value)]),
);

const write = async (name, report) => {
  const file = `docs/bench/${name}.md`;
  await writeFile(
    file,
    await format(report, { ...(await resolveConfig(file)), parser: 'markdown' }),
  );
  console.log(`${report}\nWrote ${file}`);
};

const { folder, remove } = await compile();
const load = (path) => import(pathToFileURL(join(folder, path)).href);
try {
  if (what === 'bench') {
    const { runBench } = await load('test/orders/bench.js');
    await write('orders-latency', await runBench(options));
  } else {
    const { runLong } = await load('test/orders/crash/long.js');
    const { report, failed } = await runLong({ ...options, folder });
    if (failed) console.log(report);
    else await write('orders', report);
    process.exitCode = failed ? 1 : 0;
  }
} finally {
  await remove();
}
process.exit();
