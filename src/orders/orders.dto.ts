/**
 * The requests and responses of the orders' routes. Money is an integer in minor units (e.g. cents)
 * of an ISO 4217 currency.
 */
import { ApiProperty, ApiSchema } from '@nestjs/swagger';
import { findFault } from '../platform/http/validation/faults.js';
import {
  Id,
  Integer,
  List,
  OneOf,
  QueryIds,
  Text,
  Time,
} from '../platform/http/validation/fields.js';
import { PageQuery, PageShape } from '../platform/http/pagination.js';
import { represent } from '../platform/http/conditional/representation.js';
import { CURRENCIES } from './currencies.js';
import type { Order } from './order.entity.js';
import { EVENT_TYPES, upcast } from './projection/order-events.js';
import { ORDER_STATUSES, type OrderStatus } from './order-lifecycle.js';
import type { OrderEvent } from './projection/order-event.entity.js';

const UUID_PATTERN = '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$';
const MAX_UNIT_PRICE = 1_000_000_000_000;
const MAX_IDS = 100;
const ID_EXAMPLE = '0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a';
const TIME_EXAMPLE = '2026-01-31T09:30:00.000Z';

/** The currency of a new order. */
const Currency = (): PropertyDecorator =>
  OneOf(CURRENCIES, {
    name: 'Currency',
    example: 'EUR',
    description: 'The ISO 4217 code of a currency that is legal tender somewhere, in upper case.',
    findFaults: findFault(
      'currency',
      (value) => CURRENCIES.includes(value as string),
      'must be the ISO 4217 code of a currency in use, in upper case, e.g. EUR',
    ),
  });

/** The currency of an order that exists: it may have left the list of {@link Currency} since. */
export const StoredCurrency = (): PropertyDecorator =>
  ApiProperty({
    type: String,
    pattern: '^[A-Z]{3}$',
    example: 'EUR',
    description:
      'An ISO 4217 code. An order keeps its code after the currency has gone out of use, so this ' +
      'can be a code that new orders cannot have.',
  });

const Note = ({ optional }: { optional: boolean }): PropertyDecorator =>
  Text({ optional, nullable: true, max: 1000, multiline: true, example: 'Ring twice.' });

export class OrderItemInput {
  @Text({ min: 1, max: 64, example: 'LAMP-01' })
  sku: string;

  @Text({ min: 1, max: 200, example: 'Signal lamp' })
  name: string;

  @Integer({ min: 1, max: 10_000, example: 2 })
  quantity: number;

  @Integer({
    min: 0,
    max: MAX_UNIT_PRICE,
    example: 4_999,
    description: 'In minor units of the currency.',
  })
  unitPrice: number;
}

/** The same fields in responses, where a later release may add some. */
@ApiSchema({ name: 'OrderItem' })
export class OrderItemView extends OrderItemInput {}

export class PlaceOrder {
  @Currency()
  currency: string;

  @List(() => OrderItemInput, {
    min: 1,
    max: 100,
    description: 'The total is at most 2^53 - 1 minor units.',
  })
  items: OrderItemInput[];

  @Note({ optional: true })
  note?: string | null;
}

export class ChangeOrder {
  @List(() => OrderItemInput, {
    optional: true,
    min: 1,
    max: 100,
    description: 'Replaces all items.',
  })
  items?: OrderItemInput[];

  @Note({ optional: true })
  note?: string | null;
}

/** Of an action, by a caller of the API or by an operator. */
export const REASON_LENGTH = { min: 1, max: 500 } as const;

export class ActOnOrder {
  @Text({ optional: true, ...REASON_LENGTH, example: 'As agreed by telephone.' })
  reason?: string;
}

export class GetOrderQuery {
  @Text({
    optional: true,
    min: 1,
    max: 40,
    description:
      'A version, for example `2`, or an RFC 3339 time: returns the order as it was then.',
  })
  at?: string;
}

/** The filters that every list of orders has. */
export class UserOrdersQuery extends PageQuery {
  @OneOf(ORDER_STATUSES, {
    name: 'OrderStatus',
    optional: true,
    description: 'Only orders with this status.',
  })
  status?: OrderStatus;

  @Time({ optional: true, description: 'Only orders that were placed at this time or later.' })
  createdFrom?: string;

  @Time({ optional: true, description: 'Only orders that were placed before this time.' })
  createdTo?: string;
}

export class ListOrdersQuery extends UserOrdersQuery {
  @QueryIds({
    min: 1,
    max: MAX_IDS,
    schema: {
      // A pattern, because Swagger UI shows no field for a list with the format "uuid".
      items: { type: 'string', pattern: UUID_PATTERN },
      // One parameter whose values are separated by commas: shorter than a parameter for each.
      ...{ style: 'form', explode: false },
    },
    description:
      'Up to 100 ids, with no other parameter but `cursor`: `ids=a,b` or `ids=a&ids=b`. Returns the ' +
      'orders that exist and that the caller may see, each once, in this order.',
  })
  ids?: string[];

  @Id({ optional: true, description: "Only this user's orders (`support` and `admin`)." })
  userId?: string;
}

export class ListEventsQuery extends PageQuery {}

@ApiSchema({ name: 'Order' })
export class OrderView {
  @Id({ example: ID_EXAMPLE })
  id: string;

  @Id({ example: ID_EXAMPLE, description: 'The user who placed the order.' })
  userId: string;

  @OneOf(ORDER_STATUSES, { name: 'OrderStatus', example: 'placed' })
  status: OrderStatus;

  @StoredCurrency()
  currency: string;

  @ApiProperty({ type: OrderItemView, isArray: true })
  items: OrderItemView[];

  @Integer({
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    example: 9_998,
    description: 'In minor units of the currency.',
  })
  total: number;

  @Note({ optional: false })
  note: string | null;

  @Integer({
    min: 1,
    max: Number.MAX_SAFE_INTEGER,
    example: 1,
    description: 'The number of events of the order.',
  })
  version: number;

  @Time({ example: TIME_EXAMPLE })
  createdAt: string;

  @Time({ example: TIME_EXAMPLE })
  updatedAt: string;
}

export class OrderPage extends PageShape {
  @ApiProperty({ type: OrderView, isArray: true })
  data: OrderView[];
}

@ApiSchema({ name: 'OrderEvent' })
export class OrderEventView {
  @Integer({
    min: 1,
    max: Number.MAX_SAFE_INTEGER,
    example: 1,
    description: "The order's version after the event.",
  })
  version: number;

  @OneOf([...EVENT_TYPES.keys()], { name: 'OrderEventType', example: 'order.paid' })
  type: string;

  @ApiProperty({
    type: 'object',
    additionalProperties: true,
    description: 'The data of the event; its members depend on `type`.',
    example: { reason: 'As agreed by telephone.' },
  })
  data: Record<string, unknown>;

  @Id({ example: ID_EXAMPLE, description: 'The user who caused the event.' })
  actorId: string;

  @Time({ example: TIME_EXAMPLE })
  occurredAt: string;
}

export class OrderEventPage extends PageShape {
  @ApiProperty({ type: OrderEventView, isArray: true })
  data: OrderEventView[];
}

export const orderView = (order: Order): OrderView => ({
  id: order.id,
  userId: order.userId,
  status: order.status,
  currency: order.currency,
  items: order.items.map(({ sku, name, quantity, unitPrice }) => ({
    sku,
    name,
    quantity,
    unitPrice,
  })),
  total: order.total,
  note: order.note,
  version: order.version,
  createdAt: order.createdAt.toISOString(),
  updatedAt: order.updatedAt.toISOString(),
});

/** The order's JSON, built once for each row in memory. */
export const orderRepresentation = represent(orderView);

/** The event in the current form, whatever form is stored. */
export const orderEventView = ({
  version,
  actorId,
  occurredAt,
  ...stored
}: OrderEvent): OrderEventView => ({
  version,
  ...upcast(stored),
  actorId,
  occurredAt: occurredAt.toISOString(),
});
