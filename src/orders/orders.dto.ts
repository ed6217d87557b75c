/** What is said to and by the orders' routes. Money is whole minor units (cents) with an ISO 4217 currency. */
import { applyDecorators } from '@nestjs/common';
import { ApiProperty, ApiSchema } from '@nestjs/swagger';
import { Transform } from 'class-transformer';
import { isISO4217CurrencyCode } from 'class-validator';
import { Day, Id, Integer, isId, List, OneOf, rule, Text, Time } from '../http/fields.js';
import { PageQuery, PageShape } from '../http/pagination.js';
import { represent } from '../cache/representation.js';
import type { Order } from './order.entity.js';
import { upcast } from './order-events.js';
import { ORDER_STATUSES, type OrderStatus } from './order-lifecycle.js';
import type { OrderEvent } from './order-event.entity.js';

const UUID_FORM = '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$';
const LARGEST_UNIT_PRICE = 1_000_000_000_000;
const ID_EXAMPLE = '0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a';
const TIME_EXAMPLE = '2026-01-31T09:30:00.000Z';

const Currency = (): PropertyDecorator =>
  applyDecorators(
    ApiProperty({
      type: String,
      pattern: '^[A-Z]{3}$',
      minLength: 3,
      maxLength: 3,
      example: 'EUR',
      description: 'ISO 4217, upper case.',
    }),
    rule(
      'currency',
      (value) =>
        typeof value === 'string' && /^[A-Z]{3}$/.test(value) && isISO4217CurrencyCode(value),
      'must be an ISO 4217 currency code in upper case',
    ),
  );

const Note = (optional: boolean): PropertyDecorator =>
  Text({ optional, nullable: true, max: 1000, multiline: true, example: 'Ring twice.' });

@ApiSchema({ name: 'OrderItem' })
export class OrderItemInput {
  @Text({ min: 1, max: 64, example: 'LAMP-01' })
  sku: string;

  @Text({ min: 1, max: 200, example: 'Signal lamp' })
  name: string;

  @Integer({ min: 1, max: 10_000, example: 2 })
  quantity: number;

  @Integer({
    min: 0,
    max: LARGEST_UNIT_PRICE,
    example: 4_999,
    description: 'In minor units of the currency.',
  })
  unitPrice: number;
}

export class PlaceOrder {
  @Currency()
  currency: string;

  @List(() => OrderItemInput, {
    min: 1,
    max: 100,
    description: 'Their total must not pass 2^53 - 1 minor units.',
  })
  items: OrderItemInput[];

  @Note(true)
  note?: string | null;
}

export class ChangeOrder {
  @List(() => OrderItemInput, {
    optional: true,
    min: 1,
    max: 100,
    description: 'All items from now on.',
  })
  items?: OrderItemInput[];

  @Note(true)
  note?: string | null;
}

export class ActOnOrder {
  @Text({ optional: true, min: 1, max: 500, example: 'As agreed by telephone.' })
  reason?: string;
}

/** `at`: a version, or a time. */
export class GetOrderQuery {
  @Text({
    optional: true,
    min: 1,
    max: 40,
    description: 'A version (`2`) or an RFC 3339 time: the order as it was then.',
  })
  at?: string;
}

/** The filters of any list of orders. */
export class UserOrdersQuery extends PageQuery {
  @OneOf(ORDER_STATUSES, { optional: true, description: 'Only orders in this state.' })
  status?: OrderStatus;

  @Time({ optional: true, description: 'Made at this time or later.' })
  createdFrom?: string;

  @Time({ optional: true, description: 'Made before this time.' })
  createdTo?: string;
}

/** One list of ids in lower case, each once; a repeated parameter is not one list. */
const splitIds = ({ value }: { value: unknown }): unknown =>
  typeof value === 'string' ? value.toLowerCase().split(',') : value && null;

export class ListOrdersQuery extends UserOrdersQuery {
  @ApiProperty({
    type: 'array',
    // By its form: Swagger UI has no field for a list of "uuid".
    items: { type: 'string', pattern: UUID_FORM },
    minItems: 1,
    maxItems: 100,
    // One parameter, its values separated by commas.
    ...{ style: 'form', explode: false },
    required: false,
    description:
      'Up to 100 ids; nothing else beside it. Those that exist and may be seen, each once, in this order.',
  })
  @rule(
    'ids',
    (value) =>
      value === undefined || (Array.isArray(value) && value.length <= 100 && value.every(isId)),
    'must be 1 to 100 UUIDs separated by commas',
  )
  @Transform(splitIds)
  ids?: string[];

  @Id({ optional: true, description: "Only this user's (support, admin)." })
  userId?: string;
}

export class ListEventsQuery extends PageQuery {}

export class SummaryQuery {
  @Day({
    optional: true,
    description: 'The first day (UTC), e.g. `2026-01-01`; 30 days back when absent.',
  })
  from?: string;

  @Day({
    optional: true,
    description:
      'The last day (UTC), e.g. `2026-01-31`; today when absent. At most 366 days in all.',
  })
  to?: string;
}

@ApiSchema({ name: 'Order' })
export class OrderView {
  @Id({ example: ID_EXAMPLE })
  id: string;
  @Id({ example: ID_EXAMPLE, description: 'Whose it is.' })
  userId: string;
  @OneOf(ORDER_STATUSES, { example: 'placed' })
  status: OrderStatus;
  @Currency()
  currency: string;
  @ApiProperty({ type: OrderItemInput, isArray: true })
  items: OrderItemInput[];
  @Integer({
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    example: 9_998,
    description: 'In minor units of the currency.',
  })
  total: number;
  @Note(false)
  note: string | null;
  @Integer({
    min: 1,
    max: Number.MAX_SAFE_INTEGER,
    example: 1,
    description: 'How many events made it what it is.',
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
    description: "The order's version after it.",
  })
  version: number;
  @ApiProperty({ type: String, example: 'order.paid' })
  type: string;
  @ApiProperty({
    type: 'object',
    additionalProperties: true,
    description: 'What the event says, by its type.',
    example: { reason: 'As agreed by telephone.' },
  })
  data: Record<string, unknown>;
  @Id({ example: ID_EXAMPLE, description: 'Who did it.' })
  actorId: string;
  @Time({ example: TIME_EXAMPLE })
  occurredAt: string;
}

export class OrderEventPage extends PageShape {
  @ApiProperty({ type: OrderEventView, isArray: true })
  data: OrderEventView[];
}

export class SummaryRow {
  @Day({ example: '2026-01-31' })
  day: string;
  @OneOf(ORDER_STATUSES, { example: 'paid' })
  status: OrderStatus;
  @Currency()
  currency: string;
  @Integer({ min: 1, max: Number.MAX_SAFE_INTEGER, example: 3 })
  count: number;
  @ApiProperty({
    oneOf: [
      { type: 'integer', format: 'int64' },
      { type: 'string', pattern: '^[0-9]+$' },
    ],
    example: 29_994,
    description: 'In minor units; decimal text where the sum passes 2^53 - 1.',
  })
  total: number | string;
}

export class OrderSummary {
  @Day({ example: '2026-01-01' })
  from: string;
  @Day({ example: '2026-01-31' })
  to: string;
  @ApiProperty({ type: SummaryRow, isArray: true })
  data: SummaryRow[];
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

/** The order's JSON, made once for each row that was read. */
export const orderRepresentation = represent(orderView);

/** In the present form, whatever form it is kept in. */
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
