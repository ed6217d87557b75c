/**
 * Orders with complete histories. Every state is what `evolve` computes from the events, as in the
 * service.
 */
import {
  EDITABLE_STATUS,
  type OrderAction,
  type OrderStatus,
  type Transition,
  TRANSITIONS,
} from '../../src/orders/order-lifecycle.js';
import {
  evolve,
  type OrderChange,
  type OrderState,
  toActionEvent,
  toChangedEvent,
  toPlacedEvent,
} from '../../src/orders/projection/order-events.js';
import { Random } from '../../test/support/random.js';
import {
  chooseByChance,
  exponential,
  randomCurrency,
  randomItems,
  randomNote,
  REASONS,
  zipfRank,
} from '../sample-data.js';
import { DAY_MS, HOUR_MS, ORDER_DAYS, type Plan } from './plan.js';
import { idAt, timeOf } from './random-times.js';
import type { SampleUsers } from './sample-users.js';

export interface SampleEvent extends OrderChange {
  readonly actorId: string;
  /** Milliseconds since 1970. */
  readonly occurredAt: number;
}

export interface SampleOrder {
  readonly id: string;
  /** The index of its user. */
  readonly customer: number;
  readonly state: OrderState;
  /** The order's version is their number. */
  readonly events: readonly SampleEvent[];
}

interface Step {
  readonly action: OrderAction | 'change';
  /** The share of all orders with this status that take the step next. The rest stay. */
  readonly chance: number;
  /** How long it takes on average. */
  readonly meanHours: number;
}

/** What happens to orders. order-lifecycle.ts decides who does it, and by which event. */
const NEXT_STEPS: Readonly<Record<OrderStatus, readonly Step[]>> = {
  placed: [
    { action: 'change', chance: 0.12, meanHours: 0.5 },
    { action: 'pay', chance: 0.79, meanHours: 2 },
    { action: 'cancel', chance: 0.05, meanHours: 8 },
  ],
  paid: [
    { action: 'ship', chance: 0.96, meanHours: 20 },
    { action: 'cancel', chance: 0.02, meanHours: 12 },
  ],
  shipped: [{ action: 'deliver', chance: 0.99, meanHours: 60 }],
  delivered: [{ action: 'refund', chance: 0.04, meanHours: 150 }],
  cancelled: [],
  refunded: [],
};

/** Yields the orders of a plan by ascending time. A few users place most of them. */
export function* makeOrders(plan: Plan, users: SampleUsers): Generator<SampleOrder> {
  const { orders, seed, until } = plan;
  const random = new Random(seed).fork('orders');
  const from = until - ORDER_DAYS * DAY_MS;
  const customerAt = customerChooser(random, users);
  for (let index = 0; index < orders; index++) {
    const placedAt = timeOf(random, { from, until }, index, orders);
    const customer = customerAt(placedAt);
    const history = new History(random, users.ids[customer] as string, users.clerk.id, placedAt);
    yield { id: idAt(random, placedAt), customer, ...history.runUntil(until) };
  }
}

/** Chooses the customer of an order at a time: a user who is registered then. */
function customerChooser(random: Random, users: SampleUsers): (time: number) => number {
  // The best customers are shuffled, so that they are neither the oldest nor the newest users.
  const ranking = Uint32Array.from(users.ids.keys());
  for (let last = ranking.length - 1; last > 0; last--) {
    const other = random.between(0, last);
    const swapped = ranking[last] as number;
    ranking[last] = ranking[other] as number;
    ranking[other] = swapped;
  }
  return (time) => {
    for (;;) {
      const customer = ranking[zipfRank(random, ranking.length)] as number;
      const isRegistered = (users.registeredAt[customer] as number) < time;
      if (isRegistered || customer === 0) return customer;
    }
  };
}

/** The events of one order, and its state after them. */
class History {
  private readonly events: SampleEvent[] = [];
  private state: OrderState;

  constructor(
    private readonly random: Random,
    private readonly userId: string,
    private readonly clerkId: string,
    private readonly placedAt: number,
  ) {
    const currency = randomCurrency(random);
    const items = randomItems(random, currency);
    const placed = toPlacedEvent({ userId, currency, items, note: randomNote(random) });
    this.state = this.append(null, placed, userId, placedAt);
  }

  /** @param until milliseconds since 1970: no event happens then or later */
  runUntil(until: number): Pick<SampleOrder, 'state' | 'events'> {
    let time = this.placedAt;
    let step = this.nextStep();
    while (step) {
      time += 1 + Math.round(exponential(this.random, step.meanHours * HOUR_MS));
      if (time >= until) break;
      this.take(step, time);
      step = this.nextStep();
    }
    return { state: this.state, events: this.events };
  }

  private nextStep(): Step | undefined {
    return chooseByChance(this.random, NEXT_STEPS[this.state.status]);
  }

  private take({ action }: Step, time: number): void {
    if (action === 'change') {
      this.state = this.append(this.state, this.randomChange(), this.userId, time);
      return;
    }
    const transition = transitionFrom(this.state.status, action);
    const actorId = transition.by === 'owner' ? this.userId : this.clerkId;
    const change = toActionEvent(transition, this.state, this.randomReason(action));
    this.state = this.append(this.state, change, actorId, time);
  }

  private append(
    before: OrderState | null,
    change: OrderChange,
    actorId: string,
    occurredAt: number,
  ): OrderState {
    this.events.push({ ...change, actorId, occurredAt });
    return evolve(before, change);
  }

  private randomChange(): OrderChange {
    const { status, currency } = this.state;
    if (status !== EDITABLE_STATUS) throw new Error(`an order that is ${status} cannot change`);
    return toChangedEvent(
      this.random.chance(0.5)
        ? { items: randomItems(this.random, currency) }
        : { note: randomNote(this.random) },
    );
  }

  private randomReason(action: OrderAction): string | undefined {
    const hasReasons = action === 'cancel' || action === 'refund';
    if (!hasReasons || !this.random.chance(0.7)) return undefined;
    return this.random.pick(REASONS[action]);
  }
}

function transitionFrom(status: OrderStatus, action: OrderAction): Transition {
  const transition = TRANSITIONS.find(
    ({ from, action: taken }) => from === status && taken === action,
  );
  if (!transition) throw new Error(`an order that is ${status} has no action ${action}`);
  return transition;
}
