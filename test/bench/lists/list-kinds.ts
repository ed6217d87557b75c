/** The kinds of lists that clients ask for. */
import { DAYS } from './load-orders.js';

export interface Filters {
  readonly status?: string;
  /** Days before now. */
  readonly createdFrom?: number;
  readonly createdTo?: number;
}

export interface ListKind {
  readonly name: string;
  /** Who asks, and for whose orders. */
  readonly view: 'own orders' | 'all orders' | 'orders of one user';
  /** @param position from 0 to 1: variants of one kind ask for other spans of time */
  readonly filters?: (position: number) => Filters;
  /** Begins with a cursor far behind the newest order. */
  readonly isDeep?: boolean;
}

const SPAN_DAYS = 80;

const span = (createdTo: number): Filters => ({ createdFrom: createdTo + SPAN_DAYS, createdTo });
/** Anywhere in the orders' days. */
const anySpan = (position: number): Filters => span((DAYS / 2) * position);
/** Behind the newest orders, which are not delivered or cancelled yet. */
const olderSpan = (position: number): Filters => span(20 + 70 * position);

const delivered = (): Filters => ({ status: 'delivered' });

export const LIST_KINDS: readonly ListKind[] = [
  { name: 'own, newest (cached)', view: 'own orders' },
  { name: 'own, deep', view: 'own orders', isDeep: true },
  { name: 'own, delivered', view: 'own orders', filters: delivered },
  { name: 'own, delivered, deep', view: 'own orders', filters: delivered, isDeep: true },
  { name: `own, ${SPAN_DAYS} days`, view: 'own orders', filters: anySpan },
  {
    name: `own, delivered, ${SPAN_DAYS} days`,
    view: 'own orders',
    filters: (position) => ({ ...delivered(), ...olderSpan(position) }),
  },
  { name: 'all, newest', view: 'all orders' },
  { name: 'all, deep', view: 'all orders', isDeep: true },
  { name: 'all, delivered', view: 'all orders', filters: delivered },
  { name: 'all, delivered, deep', view: 'all orders', filters: delivered, isDeep: true },
  { name: `all, ${SPAN_DAYS} days`, view: 'all orders', filters: anySpan },
  {
    name: `all, cancelled, ${SPAN_DAYS} days`,
    view: 'all orders',
    filters: (position) => ({ status: 'cancelled', ...olderSpan(position) }),
  },
  { name: "one user's, delivered", view: 'orders of one user', filters: delivered },
];
