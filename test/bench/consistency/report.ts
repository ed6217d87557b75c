/**
 * From the logs of a run to what is shown: the verdict on every read, the Markdown table and the chart. A read is stale when a
 * newer version of its row had been acknowledged, by whichever node, before the read began.
 */
import type { Events, Log } from './node.js';

export interface Result {
  readonly title: string;
  readonly settings: string;
  readonly reads: number;
  readonly stale: number;
  /** Milliseconds from an acknowledgement to the beginning of the latest read that still missed it. */
  readonly longest: number;
  /** Of `keys`: rows on nodes that still showed an old version after the writers had stopped. */
  readonly keysLeftStale: number;
  readonly keys: number;
  readonly hitRatio: number;
  readonly readsPerSecond: number;
  readonly writesPerSecond: number;
  /** Milliseconds. */
  readonly p50: number;
  readonly p99: number;
  readonly failures: readonly string[];
}

export const perMillion = ({ stale, reads }: Pick<Result, 'stale' | 'reads'>): number =>
  reads === 0 ? 0 : (stale / reads) * 1e6;

/** Which reads are stale, and how long after the acknowledgement the latest of them began; by nothing but the two logs. */
export function judge(
  writes: readonly Events[],
  reads: readonly Events[],
): Pick<Result, 'stale' | 'longest'> {
  /** For each row, in the order of time: when a version newer than all before was acknowledged. */
  const histories: { at: number; version: number }[][] = [];
  for (const { at, row, version } of writes) {
    at.forEach((time, index) => {
      (histories[row[index] as number] ??= []).push({
        at: time,
        version: version[index] as number,
      });
    });
  }
  histories.forEach((history, row) => {
    let newest = 0;
    history.sort((a, b) => a.at - b.at);
    histories[row] = history.filter(({ version }) => version > newest && (newest = version));
  });
  let [stale, longest] = [0, 0];
  for (const { at, row, version } of reads) {
    at.forEach((began, index) => {
      const history = histories[row[index] as number] ?? [];
      const next = firstNewer(history, version[index] as number);
      if (!next || next.at >= began) return;
      stale++;
      longest = Math.max(longest, (began - next.at) / 1e6);
    });
  }
  return { stale, longest };
}

function firstNewer<T extends { version: number }>(
  history: readonly T[],
  version: number,
): T | undefined {
  let [low, high] = [0, history.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((history[middle] as T).version > version) high = middle;
    else low = middle + 1;
  }
  return history[low];
}

export function resultOf(
  peer: { title: string; settings: string },
  logs: readonly Log[],
  seconds: number,
  left: { keysLeftStale: number; keys: number },
): Result {
  const reads = logs.reduce((sum, log) => sum + log.reads.at.length, 0);
  const writes = logs.reduce((sum, log) => sum + log.writes.at.length, 0);
  const loaded = logs.reduce((sum, log) => sum + log.rowsLoaded, 0);
  const took = Float64Array.from(logs.flatMap((log) => [...log.reads.took])).sort();
  const percentile = (share: number): number =>
    (took[Math.floor(share * (took.length - 1))] ?? NaN) / 1e6;
  return {
    ...left,
    ...judge(
      logs.map((log) => log.writes),
      logs.map((log) => log.reads),
    ),
    title: peer.title,
    settings: peer.settings,
    reads,
    hitRatio: Math.max(0, 1 - loaded / reads),
    readsPerSecond: reads / seconds,
    writesPerSecond: writes / seconds,
    p50: percentile(0.5),
    p99: percentile(0.99),
    failures: logs.flatMap((log) => log.failures),
  };
}

/** 71234 → "71 234", with a space that does not break. */
const grouped = (value: number): string =>
  String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, '\u00a0');

export function markdownTable(results: readonly Result[]): string {
  const rows = results.map((result) => [
    result.title,
    grouped(result.reads),
    grouped(result.stale),
    grouped(perMillion(result)),
    result.stale === 0 ? '0' : `${grouped(result.longest)} ms`,
    `${result.keysLeftStale} of ${result.keys}`,
    `${(result.hitRatio * 100).toFixed(1)} %`,
    grouped(result.readsPerSecond),
    grouped(result.writesPerSecond),
    `${result.p50.toFixed(2)} ms`,
    `${result.p99.toFixed(1)} ms`,
  ]);
  const head = [
    'cache',
    'reads',
    'stale reads',
    'stale per million',
    'longest',
    'keys left stale',
    'hit ratio',
  ];
  const table = [
    [...head, 'reads/s', 'writes/s', 'p50 read', 'p99 read'],
    [':--', ...Array<string>(10).fill('--:')],
    ...rows.map((cells) => (cells[0] === 'Holdfast' ? cells.map((cell) => `**${cell}**`) : cells)),
  ];
  return table.map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

/** Horizontal bars over a logarithmic axis; none at all for 0, which has no place on it. */
export function svgChart(results: readonly Result[], subtitle: string): string {
  const width = 760;
  const [left, right, top, row, bar] = [216, 84, 76, 34, 18];
  const bottom = top + results.length * row;
  const decades = Math.max(
    1,
    ...results.map((result) => Math.ceil(Math.log10(Math.max(1, perMillion(result))))),
  );
  const x = (value: number): number =>
    left + (Math.log10(Math.max(1, value)) / decades) * (width - left - right);
  const text = (at: [number, number], content: string, attributes = ''): string =>
    `<text x="${at[0].toFixed(1)}" y="${at[1].toFixed(1)}" ${attributes}>${content}</text>`;

  const ticks = Array.from({ length: decades + 1 }, (_, power) => 10 ** power).map((value) => {
    const at = x(value).toFixed(1);
    const line = `<line x1="${at}" y1="${top - 4}" x2="${at}" y2="${bottom + 4}" stroke="${value === 1 ? '#57606a' : '#d8dee4'}"/>`;
    return (
      line +
      text(
        [x(value), bottom + 22],
        grouped(value),
        'text-anchor="middle" fill="#57606a" font-size="12"',
      )
    );
  });
  const bars = results.map((result, index) => {
    const [value, middle] = [perMillion(result), top + index * row + row / 2];
    const own = result.title === 'Holdfast';
    const color = own ? '#1a7f37' : '#24292f';
    const weight = own ? ' font-weight="600"' : '';
    return [
      text([left - 12, middle + 4.5], result.title, `text-anchor="end" fill="${color}"${weight}`),
      `<rect x="${left}" y="${middle - bar / 2}" width="${(x(value) - left).toFixed(1)}" height="${bar}" fill="#b35900"/>`,
      text(
        [x(value) + 8, middle + 4.5],
        grouped(value),
        `fill="${color}"${weight} stroke="#ffffff" stroke-width="4" paint-order="stroke"`,
      ),
    ].join('\n');
  });
  const summary = results
    .map((result) => `${result.title}: ${Math.round(perMillion(result))}`)
    .join('; ');
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${bottom + 38}" width="${width}" height="${bottom + 38}" role="img" aria-label="Stale reads per million reads. ${summary}." font-family="system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Arial, sans-serif" font-size="13.5">
<rect width="100%" height="100%" fill="#ffffff"/>
${text([16, 28], 'Stale reads per million reads', 'font-size="16" font-weight="600" fill="#24292f"')}
${text([16, 49], subtitle, 'font-size="12.5" fill="#57606a"')}
${ticks.join('\n')}
${bars.join('\n')}
</svg>
`;
}
