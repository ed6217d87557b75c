/** The results of {@link summarizePeer} as a table in Markdown and as a chart. */
import { groupDigits, markdownTable } from '../page.js';
import { type PeerResult, staleReadsPerMillion } from './staleness.js';

const HIGHLIGHTED = 'Holdfast';

const HEAD = [
  'cache',
  'reads',
  'stale reads',
  'stale per million',
  'longest',
  'keys left stale',
  'hit ratio',
  'reads/s',
  'writes/s',
  'p50 read',
  'p99 read',
];

export function resultTable(results: readonly PeerResult[]): string {
  return markdownTable(HEAD, results.map(rowOf));
}

function rowOf(result: PeerResult): string[] {
  const cells = [
    result.title,
    groupDigits(result.reads),
    groupDigits(result.staleReads),
    groupDigits(staleReadsPerMillion(result)),
    result.staleReads === 0 ? '0' : `${groupDigits(result.longestMs)} ms`,
    `${result.keysLeftStale} of ${result.keys}`,
    `${(result.hitRatio * 100).toFixed(1)} %`,
    groupDigits(result.readsPerSecond),
    groupDigits(result.writesPerSecond),
    `${result.p50Ms.toFixed(2)} ms`,
    `${result.p99Ms.toFixed(1)} ms`,
  ];
  return result.title === HIGHLIGHTED ? cells.map((cell) => `**${cell}**`) : cells;
}

/** Pixels. */
const CHART = { width: 760, left: 216, right: 84, top: 76, row: 34, bar: 18, axis: 38 } as const;
const COLORS = {
  background: '#ffffff',
  text: '#24292f',
  muted: '#57606a',
  grid: '#d8dee4',
  bar: '#b35900',
  highlight: '#1a7f37',
} as const;
const FONTS = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Arial, sans-serif";
/** A white outline keeps a label readable over a grid line. */
const OUTLINE = `stroke="${COLORS.background}" stroke-width="4" paint-order="stroke"`;

/** Horizontal bars over a logarithmic axis, which has no place for 0: no stale reads, no bar. */
export function svgChart(results: readonly PeerResult[], subtitle: string): string {
  const bottom = CHART.top + results.length * CHART.row;
  const height = bottom + CHART.axis;
  const decades = Math.max(1, ...results.map(decadesOf));
  const xOf = (value: number): number => {
    const share = Math.log10(Math.max(1, value)) / decades;
    return CHART.left + share * (CHART.width - CHART.left - CHART.right);
  };
  const summary = results
    .map((result) => `${result.title}: ${Math.round(staleReadsPerMillion(result))}`)
    .join('; ');
  const label = `aria-label="Stale reads per million reads. ${summary}."`;
  const size = `viewBox="0 0 ${CHART.width} ${height}" width="${CHART.width}" height="${height}"`;
  const font = `font-family="${FONTS}" font-size="13.5"`;
  const title = 'Stale reads per million reads';
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" ${size} role="img" ${label} ${font}>`,
    `<rect width="100%" height="100%" fill="${COLORS.background}"/>`,
    text(16, 28, title, `font-size="16" font-weight="600" fill="${COLORS.text}"`),
    text(16, 49, subtitle, `font-size="12.5" fill="${COLORS.muted}"`),
    ...Array.from({ length: decades + 1 }, (_, power) => tick(10 ** power, xOf, bottom)),
    ...results.map((result, index) => bar(result, index, xOf)),
    '</svg>\n',
  ].join('\n');
}

const decadesOf = (result: PeerResult): number =>
  Math.ceil(Math.log10(Math.max(1, staleReadsPerMillion(result))));

function text(x: number, y: number, content: string, attributes: string): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${attributes}>${content}</text>`;
}

/** A grid line and its number on the axis. */
function tick(value: number, xOf: (value: number) => number, bottom: number): string {
  const x = xOf(value);
  const color = value === 1 ? COLORS.muted : COLORS.grid;
  const ends = `x1="${x.toFixed(1)}" y1="${CHART.top - 4}" x2="${x.toFixed(1)}" y2="${bottom + 4}"`;
  const attributes = `text-anchor="middle" fill="${COLORS.muted}" font-size="12"`;
  return `<line ${ends} stroke="${color}"/>${text(x, bottom + 22, groupDigits(value), attributes)}`;
}

/** A peer's name, its bar and its number. */
function bar(result: PeerResult, index: number, xOf: (value: number) => number): string {
  const value = staleReadsPerMillion(result);
  const middle = CHART.top + index * CHART.row + CHART.row / 2;
  const isHighlighted = result.title === HIGHLIGHTED;
  const color = isHighlighted ? COLORS.highlight : COLORS.text;
  const weight = isHighlighted ? ' font-weight="600"' : '';
  const style = `fill="${color}"${weight}`;
  const width = (xOf(value) - CHART.left).toFixed(1);
  const top = middle - CHART.bar / 2;
  const rectangle = `x="${CHART.left}" y="${top}" width="${width}" height="${CHART.bar}"`;
  return [
    text(CHART.left - 12, middle + 4.5, result.title, `text-anchor="end" ${style}`),
    `<rect ${rectangle} fill="${COLORS.bar}"/>`,
    text(xOf(value) + 8, middle + 4.5, groupDigits(value), `${style} ${OUTLINE}`),
  ].join('\n');
}
