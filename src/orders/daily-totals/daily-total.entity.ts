/**
 * The number and total of the orders of one day (UTC, by `createdAt`), status and currency.
 * daily-totals.service.ts keeps the rows up to date. The table keeps its first name,
 * `order_figures`.
 */
import { Column, Entity, PrimaryColumn } from 'typeorm';
import { safeInteger } from '../../platform/database/columns.js';

@Entity('order_figures')
export class DailyTotal {
  @PrimaryColumn('date', { primaryKeyConstraintName: 'order_figures_pkey' })
  day: string;

  @PrimaryColumn('text', { primaryKeyConstraintName: 'order_figures_pkey' })
  status: string;

  @PrimaryColumn('text', { primaryKeyConstraintName: 'order_figures_pkey' })
  currency: string;

  @Column('bigint', { transformer: safeInteger })
  count: number;

  /** In minor units, as decimal text: a sum may exceed 2^53 - 1. */
  @Column('numeric')
  total: string;
}
