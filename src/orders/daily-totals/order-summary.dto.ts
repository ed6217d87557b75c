/** The request and the response of /v1/orders/summary. */
import { ApiProperty } from '@nestjs/swagger';
import { Day, Integer, OneOf } from '../../platform/http/validation/fields.js';
import { ORDER_STATUSES, type OrderStatus } from '../order-lifecycle.js';
import { StoredCurrency } from '../orders.dto.js';

export class SummaryQuery {
  @Day({
    optional: true,
    description:
      'The first day (UTC), for example `2026-01-01`. Default: the 30 days that end with `to`.',
  })
  from?: string;

  @Day({
    optional: true,
    description:
      'The last day (UTC), for example `2026-01-31`. Default: today. The period is at most 366 ' +
      'days.',
  })
  to?: string;
}

export class SummaryRow {
  @Day({ example: '2026-01-31' })
  day: string;

  @OneOf(ORDER_STATUSES, { name: 'OrderStatus', example: 'paid' })
  status: OrderStatus;

  @StoredCurrency()
  currency: string;

  @Integer({ min: 1, max: Number.MAX_SAFE_INTEGER, example: 3 })
  count: number;

  @ApiProperty({
    oneOf: [
      { type: 'integer', format: 'double-int', minimum: 0, maximum: Number.MAX_SAFE_INTEGER },
      { type: 'string', pattern: '^[0-9]{16,}$' },
    ],
    example: 29_994,
    description:
      'In minor units of the currency. A decimal string when the sum exceeds 2^53 - 1, which ' +
      'JSON numbers cannot hold exactly.',
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
