/** The page docs/benchmarks/relay.md. */
import { MAX_BATCH } from '../../../src/platform/outbox/outbox-statements.js';
import { groupDigits, markdownTable } from '../../bench/page.js';
import type { CampaignResult } from './campaign.js';
import { PLAN_ROWS, PLAN_RUNS } from './throughput.js';

export interface Measurements {
  /** How to repeat the run. */
  readonly command: string;
  readonly machine: string;
  readonly results: readonly CampaignResult[];
  /** Size of the backlog whose throughput was measured. */
  readonly events: number;
  readonly throughput: readonly { readonly nodes: number; readonly perSecond: number }[];
  /** Milliseconds for one batch. */
  readonly take: { readonly median: number; readonly max: number };
}

/** @returns the page as Markdown */
export function renderPage(measurements: Measurements): string {
  const { command, machine, results, events, throughput, take } = measurements;
  const published = groupDigits(PLAN_ROWS.published);
  const waiting = groupDigits(PLAN_ROWS.waiting);
  const [medianMs, maxMs] = [take.median.toFixed(1), take.max.toFixed(1)];
  return `# The relay, measured

\`${command}\`, all of it in one run.
Nodes, PostgreSQL, Redis, RabbitMQ and the clients share one machine: ${machine}.

## No event lost, none out of order

Twelve clients place orders over HTTP through two nodes, and pay, cancel, ship or refund them.
Meanwhile the links between the nodes and RabbitMQ are slowed, stalled and cut, and those to
PostgreSQL slowed and cut. One relay loses its PostgreSQL session while it has locked partitions, as
when a NAT forgets an entry: nothing passes, and neither side is told. Another relay then takes the
partitions over. RabbitMQ is killed and started again, and so is a node. Afterwards the messages of
a durable queue are compared with the outbox, and the outbox with \`order_events\`.

${campaignTable(results)}

The same audit finds the errors of naive relays (\`test/verify/relay/naive-relays.spec.ts\`):

- A relay that remembers the last position loses the event of a transaction that commits late.
- A relay that takes rows with \`SKIP LOCKED\` publishes the second event of an order first.
- So does a relay that does not wait for each confirm, once the broker rejects a message.

## Throughput

A backlog of ${groupDigits(events)} events, each of another order, goes to one durable queue.
Messages are persistent and confirmed. The time ends when every event is settled.
The runs alternate.

${throughputTable(throughput)}

A second node adds little here: both nodes share the processors with PostgreSQL and RabbitMQ.

## The cost of a batch

PostgreSQL takes ${medianMs} ms for a batch of ${MAX_BATCH.events} events: the median of
${PLAN_RUNS} runs, of which the slowest took ${maxMs} ms. The table has
${published} published and ${waiting} waiting events.
\`test/platform/database/background-queries.spec.ts\` checks the plan: it reads the indexes of the
partitions, without a sequential scan, also behind 10 000 events of one subject and 10 000 blocked
events.
`;
}

function campaignTable(results: readonly CampaignResult[]): string {
  const total = (valueOf: (result: CampaignResult) => number): string =>
    groupDigits(results.reduce((sum, result) => sum + valueOf(result), 0));
  const faultNames = new Set(results.flatMap(({ faults }) => Object.keys(faults)));
  const faultRows = [...faultNames]
    .sort()
    .map((name) => [name, total(({ faults }) => faults[name] ?? 0)]);
  const secondsOf = (valueOf: (result: CampaignResult) => number): string =>
    results.map((result) => valueOf(result).toFixed(1)).join(', ');
  return markdownTable(
    ['', `${results.length} rounds`],
    [
      ['orders placed', total(({ orders }) => orders)],
      ['events written', total(({ written }) => written)],
      ['messages in the queue', total(({ arrivals }) => arrivals)],
      ['of them repeats (same id)', total(({ repeats }) => repeats)],
      ['**events lost**', total(({ lost }) => lost.length)],
      ['**events out of order** within their order', total(({ outOfOrder }) => outOfOrder.length)],
      ['events only in `order_events` or only in the outbox', total(({ unmatched }) => unmatched)],
      ...faultRows,
      [
        'seconds until the partitions of the lost session were free',
        results
          .flatMap(({ takeoverSeconds }) => takeoverSeconds.map((s) => s.toFixed(1)))
          .join(', '),
      ],
      ['seconds until every order was placed', secondsOf(({ driveSeconds }) => driveSeconds)],
      ['seconds until the outbox was empty', secondsOf(({ drainSeconds }) => drainSeconds)],
    ],
  );
}

function throughputTable(throughput: Measurements['throughput']): string {
  const runsWith = (nodes: number): string =>
    throughput
      .filter((run) => run.nodes === nodes)
      .map(({ perSecond }) => groupDigits(perSecond))
      .join(', ');
  return markdownTable(
    ['nodes', 'events a second, each run'],
    [
      ['one', runsWith(1)],
      ['two', runsWith(2)],
    ],
  );
}
