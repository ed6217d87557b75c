/** The history of orders and its bounds. */
import type { Mutant } from '../mutant.js';

const replay = { specs: ['test/orders/projection/replay.spec.ts'] } as const;

export const ORDER_MUTANTS: readonly Mutant[] = [
  {
    ...replay,
    name: 'replay-in-one-page',
    without: 'a read of the past loads every event of the order at once',
    file: 'src/orders/projection/replay-past.ts',
    text: 'LIMIT ${MAX_EVENTS_PER_PAGE}) AS event)',
    replacement: ') AS event)',
  },
  {
    ...replay,
    name: 'replay-page-without-bytes',
    without: 'a page of events has no bound of bytes',
    file: 'src/orders/projection/replay-past.ts',
    text: 'coalesce(bytes_before, 0) < ${MAX_PAGE_BYTES}',
    replacement: 'true',
  },
  {
    ...replay,
    name: 'replay-beyond-its-version',
    without: 'a replay reads events after the version that was asked for',
    file: 'src/orders/projection/replay-past.ts',
    text: ' AND version <= $3\n',
    replacement: '\n',
  },
  {
    ...replay,
    name: 'replay-without-a-turn',
    without: 'any number of long replays run at once',
    file: 'src/orders/projection/order-history.service.ts',
    text: 'const isLong = version > MAX_EVENTS_PER_PAGE;',
    replacement: 'const isLong = false;',
  },
  {
    ...replay,
    name: 'replay-queue-of-one-caller',
    without: 'all long replays count for one caller, who fills the room of the others',
    file: 'src/orders/projection/order-history.service.ts',
    text: 'caller: actor.userId }',
    replacement: "caller: 'anybody' }",
  },
  {
    ...replay,
    name: 'change-without-a-bound',
    without: 'an order can be changed any number of times',
    file: 'src/orders/orders.service.ts',
    text: 'if (!hasRoomForChange(order.version)) throw orderProblems.tooManyVersions();',
    replacement: '',
  },
  {
    ...replay,
    name: 'change-without-a-reserve',
    without: 'changes use up the versions that the actions need',
    file: 'src/orders/order-versions.ts',
    text: 'MAX_ORDER_VERSIONS - longestPathFrom(EDITABLE_STATUS)',
    replacement: 'MAX_ORDER_VERSIONS',
  },
  {
    name: 'lifecycle-with-a-cycle',
    without: 'a lifecycle without an end is not found at startup',
    file: 'src/orders/order-lifecycle.ts',
    text: '  findCycles,\n',
    replacement: '',
    specs: ['test/orders/lifecycle.spec.ts'],
  },
];
