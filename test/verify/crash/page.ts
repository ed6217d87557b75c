/** The page docs/benchmarks/orders.md. */
import { markdownTable } from '../../bench/page.js';
import type { Arrivals } from '../relay/arrivals.js';
import type { Rule } from './audit.js';
import type { RoundResult } from './crash-cluster.js';
import { ALL_STEPS } from './steps.js';

/** @param command how to repeat the run @returns the page as Markdown */
export function renderPage(command: string, result: RoundResult, arrivals: Arrivals): string {
  return `# Orders and crashes

\`${command}\`

Two nodes of the service share one PostgreSQL (with fsync), one Redis and one RabbitMQ. A node kills
itself with SIGKILL at a step of a write or of the relay, starts again, and dies again; often both
are down. Meanwhile six customers place, change and pay orders. They send each keyed request to the
other node again until it is answered, and one in three to both nodes at once. At the end every key
is sent once more to both nodes, and an audit reads the database. When the outbox is empty, a second
audit reads a queue that is bound to every event.

${resultTable(result, arrivals)}

${deathTable(result)}
`;
}

function resultTable(result: RoundResult, arrivals: Arrivals): string {
  const { crashes, orders, events, counts, problems, violations, seconds } = result;
  const totalCrashes = Object.values(crashes).reduce((sum, times) => sum + times, 0);
  const violationsOf = (...rules: Rule[]): number =>
    violations.filter(({ rule }) => rules.includes(rule)).length;
  const answerViolations = violationsOf(
    'a repeated key gets the same answer',
    'the stored answer is the answer',
  );
  const eventViolations = violationsOf('events are 1 to n', 'the outbox has each event in order');
  const rows: (readonly [string, number | string])[] = [
    ['crashes', totalCrashes],
    ['orders audited', orders],
    ['events audited', events],
    ['requests sent', counts.sent],
    ['requests without an answer', counts.unanswered],
    ['repetitions answered with the bytes of the first answer', counts.replayed],
    ['orders lost', violationsOf('an acknowledged order exists')],
    ['orders doubled', violationsOf('a key places one order')],
    ['keys with two answers, or without the stored answer', answerViolations],
    ['gaps in events, or differences in the outbox', eventViolations],
    [
      'orders that differ from their replay',
      violationsOf('the order equals the replay of its events'),
    ],
    ['keys stuck in flight', violationsOf('no key is in flight')],
    ['answers that no client should get', problems.length],
    ['events published, of orders, users and sessions', arrivals.written],
    ['messages in the queue', arrivals.arrivals],
    ['of them repeats (same id)', arrivals.repeats],
    ['events lost', arrivals.lost.length],
    ['events out of order within their aggregate', arrivals.outOfOrder.length],
    ['events only in `order_events` or only in the outbox', arrivals.unmatched],
    ['seconds until the outbox was empty', arrivals.drainSeconds.toFixed(1)],
    ['seconds', seconds.toFixed(0)],
  ];
  return markdownTable(
    ['', 'count'],
    rows.map(([name, value]) => [name, String(value)]),
  );
}

function deathTable({ crashes }: RoundResult): string {
  return markdownTable(
    ['a node died at', 'times'],
    ALL_STEPS.map((step) => [step, String(crashes[step] ?? 0)]),
  );
}
