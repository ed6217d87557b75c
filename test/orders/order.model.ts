/**
 * What the contract says of orders, in as few lines as it takes, and without a line of the service's: the test of the API
 * against it (order-model.spec.ts) is worth what this is.
 */
export type Who = 'ann' | 'ben' | 'support' | 'admin';
export interface Order {
  readonly owner: Who;
  readonly status: string;
  readonly version: number;
  readonly quantity: number;
  readonly note: string | null;
  readonly before: Order | undefined;
}
/** `at`: which order, by its number; `tag`: If-Match, a version, "*" or none. */
export type Command =
  | { readonly kind: 'place'; readonly who: Who; readonly quantity: number }
  | {
      readonly kind: 'patch';
      readonly who: Who;
      readonly at: number;
      readonly tag: Tag;
      readonly change: Change;
    }
  | {
      readonly kind: 'act';
      readonly who: Who;
      readonly at: number;
      readonly tag: Tag;
      readonly action: string;
    }
  | {
      readonly kind: 'get';
      readonly who: Who;
      readonly at: number;
      readonly version: number | undefined;
    }
  | { readonly kind: 'list'; readonly who: Who };
export type Tag = number | '*' | undefined;
export type Change = Partial<Pick<Order, 'quantity' | 'note'>>;
/** The answer: its status, and the order or the numbers of the orders in it. */
export type Expected = readonly [status: number, order?: Order, list?: readonly number[]];

/** action, from, to, by */
const LIFE =
  'pay placed paid owner, ship paid shipped admin, deliver shipped delivered admin, cancel placed cancelled owner, cancel paid cancelled admin, refund delivered refunded admin'
    .split(', ')
    .map((line) => line.split(' ') as [string, string, string, string]);

const sees = (who: Who, order: Order): boolean =>
  who === order.owner || who === 'support' || who === 'admin';

/** What becomes of the orders, and what the caller is told. */
export function step(orders: readonly Order[], command: Command): [readonly Order[], Expected] {
  if (command.kind === 'place') {
    const { who, quantity } = command;
    const order = {
      owner: who,
      status: 'placed',
      version: 1,
      quantity,
      note: null,
      before: undefined,
    };
    return [
      [...orders, order],
      [201, order],
    ];
  }
  if (command.kind === 'list') {
    const seen = [...orders.keys()].filter((at) => sees(command.who, orders[at] as Order));
    return [orders, [200, undefined, seen.reverse()]];
  }
  const { who, at } = command;
  const order = orders[at];
  const refuse = (status: number): [readonly Order[], Expected] => [orders, [status]];
  if (!order || !sees(who, order)) return refuse(404);
  if (command.kind === 'get') {
    let found: Order | undefined = order;
    while (found && command.version !== undefined && found.version !== command.version)
      found = found.before;
    return found ? [orders, [200, found]] : refuse(404);
  }
  const become = (change: Partial<Order>): [readonly Order[], Expected] => {
    const next = { ...order, ...change, version: order.version + 1, before: order };
    return [orders.with(at, next), [200, next]];
  };
  const { tag } = command;
  const isStale = tag !== undefined && tag !== '*' && tag !== order.version;
  if (command.kind === 'patch') {
    if (who !== order.owner) return refuse(403);
    if (tag === undefined) return refuse(428);
    if (isStale) return refuse(412);
    return order.status === 'placed' ? become(command.change) : refuse(409);
  }
  const steps = LIFE.filter(
    ([action, , , by]) =>
      action === command.action && (by === 'owner' ? who === order.owner : who === by),
  );
  if (steps.length === 0) return refuse(403);
  if (isStale) return refuse(412);
  const [open] = steps.filter(([, from]) => from === order.status);
  return open ? become({ status: open[2] }) : refuse(409);
}
