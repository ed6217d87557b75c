/**
 * The contract of orders as a model: in as few lines as possible, and without any code of the
 * service. order-model.spec.ts compares the API with it.
 */
export type UserName = 'ann' | 'ben' | 'support' | 'admin';

export interface ModelOrder {
  readonly owner: UserName;
  readonly status: string;
  readonly version: number;
  readonly quantity: number;
  readonly note: string | null;
  /** The order before its last change. */
  readonly previous: ModelOrder | undefined;
}

/** If-Match: a version, any version, or no header. */
export type Tag = number | '*' | undefined;
export type Change = Partial<Pick<ModelOrder, 'quantity' | 'note'>>;

/** A request. `index` is the number of an order, in the order of their placing. */
export type Command =
  | { readonly kind: 'place'; readonly user: UserName; readonly quantity: number }
  | {
      readonly kind: 'patch';
      readonly user: UserName;
      readonly index: number;
      readonly tag: Tag;
      readonly change: Change;
    }
  | {
      readonly kind: 'act';
      readonly user: UserName;
      readonly index: number;
      readonly tag: Tag;
      readonly action: string;
    }
  | {
      readonly kind: 'get';
      readonly user: UserName;
      readonly index: number;
      readonly version: number | undefined;
    }
  | { readonly kind: 'list'; readonly user: UserName };

/** The response: its status, and the order or the indexes of the listed orders. */
export type Expected = readonly [status: number, order?: ModelOrder, list?: readonly number[]];
type Step = [orders: readonly ModelOrder[], expected: Expected];
type OrderCommand = Exclude<Command, { kind: 'place' | 'list' }>;

const LIFECYCLE: readonly [action: string, from: string, to: string, by: string][] = [
  ['pay', 'placed', 'paid', 'owner'],
  ['ship', 'paid', 'shipped', 'admin'],
  ['deliver', 'shipped', 'delivered', 'admin'],
  ['cancel', 'placed', 'cancelled', 'owner'],
  ['cancel', 'paid', 'cancelled', 'admin'],
  ['refund', 'delivered', 'refunded', 'admin'],
];

const sees = (user: UserName, order: ModelOrder): boolean =>
  user === order.owner || user === 'support' || user === 'admin';

/** The orders after a command, and its response. */
export function step(orders: readonly ModelOrder[], command: Command): Step {
  if (command.kind === 'place') return place(orders, command.user, command.quantity);
  if (command.kind === 'list') {
    const visible = [...orders.keys()].filter((index) =>
      sees(command.user, orders[index] as ModelOrder),
    );
    return [orders, [200, undefined, visible.reverse()]];
  }
  const order = orders[command.index];
  if (!order || !sees(command.user, order)) return [orders, [404]];
  return stepWithOrder(orders, order, command);
}

function place(orders: readonly ModelOrder[], owner: UserName, quantity: number): Step {
  const order: ModelOrder = {
    owner,
    status: 'placed',
    version: 1,
    quantity,
    note: null,
    previous: undefined,
  };
  return [
    [...orders, order],
    [201, order],
  ];
}

function stepWithOrder(
  orders: readonly ModelOrder[],
  order: ModelOrder,
  command: OrderCommand,
): Step {
  const reject = (status: number): Step => [orders, [status]];
  const change = (changes: Partial<ModelOrder>): Step => {
    const next = { ...order, ...changes, version: order.version + 1, previous: order };
    return [orders.with(command.index, next), [200, next]];
  };

  if (command.kind === 'get') {
    const found = atVersion(order, command.version);
    return found ? [orders, [200, found]] : reject(404);
  }
  const { user, tag } = command;
  const isOutdated = tag !== undefined && tag !== '*' && tag !== order.version;
  if (command.kind === 'patch') {
    if (user !== order.owner) return reject(403);
    if (tag === undefined) return reject(428);
    if (isOutdated) return reject(412);
    return order.status === 'placed' ? change(command.change) : reject(409);
  }
  const transitions = LIFECYCLE.filter(
    ([action, , , by]) =>
      action === command.action && (by === 'owner' ? user === order.owner : user === by),
  );
  if (transitions.length === 0) return reject(403);
  if (isOutdated) return reject(412);
  const [transition] = transitions.filter(([, from]) => from === order.status);
  return transition ? change({ status: transition[2] }) : reject(409);
}

/** @param version undefined for the newest */
function atVersion(order: ModelOrder, version: number | undefined): ModelOrder | undefined {
  if (version === undefined) return order;
  let found: ModelOrder | undefined = order;
  while (found && found.version !== version) found = found.previous;
  return found;
}
