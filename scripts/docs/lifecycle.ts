/** `npm run lifecycle`: writes the diagram and the table of an order's life into docs/orders.md, out of order-lifecycle.ts. */
import { readFile, writeFile } from 'node:fs/promises';
import {
  EDITABLE,
  INITIAL,
  ORDER_CHANGED,
  ORDER_PLACED,
  TRANSITIONS,
} from '../src/orders/order-lifecycle.js';
import { command, CommandError, isStarted, readArguments } from './command.js';

const FILE = 'docs/orders.md';
const PART = /(<!-- lifecycle: written by npm run lifecycle -->\n)[^]*?(<!-- lifecycle: end -->)/;

/** The diagram (Mermaid) and the table, as Markdown. */
export function lifecycle(): string {
  const ends = new Set(
    TRANSITIONS.map(({ to }) => to).filter(
      (state) => !TRANSITIONS.some(({ from }) => from === state),
    ),
  );
  const diagram = [
    'stateDiagram-v2',
    '  direction LR',
    `  [*] --> ${INITIAL}: place`,
    `  ${EDITABLE} --> ${EDITABLE}: change`,
    ...TRANSITIONS.map(({ action, from, to, by }) => `  ${from} --> ${to}: ${action} (${by})`),
    ...[...ends].map((state) => `  ${state} --> [*]`),
  ];
  const rows = [
    ['action', 'from', 'to', 'by', 'event'],
    ['---', '---', '---', '---', '---'],
    ['place', '', INITIAL, 'any caller with a session', `\`${ORDER_PLACED}\``],
    ['change', EDITABLE, EDITABLE, 'owner', `\`${ORDER_CHANGED}\``],
    ...TRANSITIONS.map(({ action, from, to, by, event }) => [action, from, to, by, `\`${event}\``]),
  ];
  const widths = rows[0]?.map((_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  ) as number[];
  const line = (row: string[]): string =>
    `| ${row.map((cell, column) => (cell === '---' ? '-'.repeat(widths[column] as number) : cell.padEnd(widths[column] as number))).join(' | ')} |`;
  return `\n\`\`\`mermaid\n${diagram.join('\n')}\n\`\`\`\n\n${rows.map(line).join('\n')}\n\n`;
}

/** The document with the part between the marks as it should be. @throws CommandError without the marks */
export function withLifecycle(document: string): string {
  if (!PART.test(document))
    throw new CommandError(`${FILE} has lost the marks around the lifecycle`, 1);
  return document.replace(PART, (_, begin: string, end: string) => begin + lifecycle() + end);
}

if (isStarted(import.meta.url)) {
  await command('lifecycle', async () => {
    readArguments(`npm run lifecycle (writes the diagram and the table in ${FILE})`, []);
    await writeFile(FILE, withLifecycle(await readFile(FILE, 'utf8')));
    console.log(`Wrote ${FILE}`);
    return 0;
  });
}
