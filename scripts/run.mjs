/**
 * The campaign, from a compiled copy of the service that goes away with it:
 * `node test/campaign/run.mjs [--reads 10000000] [--seed 1]` writes docs/bench/campaign.md at its end;
 * `--form short` has every kind of fault in a minute; `--report <file>` is for campaign.spec.ts. It ends by itself in any case: with 1 when a promise was
 * broken, with 2 when the campaign itself failed, with 3 when it did not end in time.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { compile } from './compile.mjs';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const { values } = parseArgs({
  options: {
    form: { type: 'string', default: 'long' },
    reads: { type: 'string', default: '10000000' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    report: { type: 'string' },
  },
});
const { form } = values;
const [seed, reads] = [Number(values.seed), Number(values.reads)];
/** Fence, lease and PostgreSQL's bounds in the short form, so that seconds show what else takes half a minute. */
const timesDividedBy = form === 'short' ? 5 : 1;
const BOUND_MS = form === 'short' ? 120_000 : 120_000 + reads;

setTimeout(() => {
  console.error(`The campaign did not end within ${BOUND_MS} ms`);
  process.exit(3);
}, BOUND_MS);

const { folder, remove } = await compile({ timesDividedBy });
let code = 2;
try {
  const load = (path) => import(pathToFileURL(join(folder, path)).href);
  const { runCampaign } = await load('test/campaign/campaign.js');
  const { markdown, summary } = await load('test/campaign/report.js');
  console.log(`campaign: ${form}, seed ${seed}`);
  const failuresFolder = join(ROOT, '.data/campaign');
  const log = (line) => console.log(line);
  const report = await runCampaign({
    form,
    seed,
    reads,
    folder,
    timesDividedBy,
    failuresFolder,
    log,
  });
  console.log(summary(report));
  if (values.report) await writeFile(values.report, JSON.stringify(report));
  if (form === 'long') {
    await writeFile(join(ROOT, 'docs/bench/campaign.md'), await markdown(report, { reads }));
    console.log('written: docs/bench/campaign.md');
  }
  code = report.files.length === 0 ? 0 : 1;
} catch (error) {
  console.error(error);
} finally {
  await remove();
}
process.exit(code);
