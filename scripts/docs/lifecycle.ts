/**
 * Generates the diagram and the table of an order's life in docs/reference/orders.md, from
 * src/orders/order-lifecycle.ts. The rest of the page is written by hand.
 */
import { readFile } from 'node:fs/promises';
import { CommandError } from '../../src/cli/command.js';
import {
  describeParty,
  EDITABLE_STATUS,
  INITIAL_STATUS,
  ORDER_CHANGED,
  ORDER_PLACED,
  TRANSITIONS,
} from '../../src/orders/order-lifecycle.js';
import { alignedTable } from './markdown.js';

export const LIFECYCLE_PAGE = 'docs/reference/orders.md';
/** The comments around the generated part. The first one may say how it is generated. */
const GENERATED_PART = /(<!-- lifecycle: (?!end)[^\n]*-->\n)[^]*?(<!-- lifecycle: end -->)/;

/** The page with its generated part up to date. */
export const generateLifecyclePage = async (): Promise<string> =>
  withLifecycle(await readFile(LIFECYCLE_PAGE, 'utf8'));

/**
 * Replaces the generated part of a page.
 * @throws CommandError when the comments around it are missing
 */
export function withLifecycle(page: string): string {
  if (!GENERATED_PART.test(page)) {
    throw new CommandError(
      `${LIFECYCLE_PAGE} lacks the comments "<!-- lifecycle: begin -->" and "<!-- lifecycle: ` +
        'end -->"',
    );
  }
  return page.replace(
    GENERATED_PART,
    (_, begin: string, end: string) => `${begin}\n${diagram()}\n\n${table()}\n\n${end}`,
  );
}

/** A Mermaid state diagram. */
function diagram(): string {
  const starts = new Set(TRANSITIONS.map(({ from }) => from));
  const finalStatuses = new Set(
    TRANSITIONS.map(({ to }) => to).filter((status) => !starts.has(status)),
  );
  const lines = [
    'stateDiagram-v2',
    '  direction LR',
    `  [*] --> ${INITIAL_STATUS}: place`,
    `  ${EDITABLE_STATUS} --> ${EDITABLE_STATUS}: change`,
    ...TRANSITIONS.map(
      (transition) =>
        `  ${transition.from} --> ${transition.to}: ` +
        `${transition.action} (${describeParty(transition)})`,
    ),
    ...[...finalStatuses].map((status) => `  ${status} --> [*]`),
  ];
  return ['```mermaid', ...lines, '```'].join('\n');
}

const table = (): string =>
  alignedTable(
    ['action', 'from', 'to', 'by', 'event'],
    [
      ['place', '', INITIAL_STATUS, 'any caller with a session', `\`${ORDER_PLACED}\``],
      ['change', EDITABLE_STATUS, EDITABLE_STATUS, 'owner', `\`${ORDER_CHANGED}\``],
      ...TRANSITIONS.map((transition) => [
        transition.action,
        transition.from,
        transition.to,
        describeParty(transition),
        `\`${transition.event}\``,
      ]),
    ],
  );
