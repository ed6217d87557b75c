/**
 * The past of one order: its events, and its state at a version or a time, replayed from them. A
 * caller that may read the order may read its past.
 */
import { Injectable } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import type { Actor } from '../../platform/access/actor.js';
import type { ReadContext } from '../../platform/cache/read/read-context.js';
import {
  decodePosition,
  DEFAULT_LIMIT,
  encodePosition,
  readByPosition,
  SerializedPage,
  takePage,
} from '../../platform/http/pagination.js';
import { problems } from '../../platform/http/problems/problem.js';
import { findTimeFaults } from '../../platform/http/validation/faults.js';
import { validationFailed } from '../../platform/http/validation/validation-problem.js';
import { type ListEventsQuery, orderEventView, orderView, type OrderView } from '../orders.dto.js';
import { OrdersService } from '../orders.service.js';
import { OrderEvent } from './order-event.entity.js';
import { type OrderState, replay } from './order-events.js';

/** Up to 15 digits: exact as a number. */
const VERSION = /^[1-9]\d{0,14}$/;

const findAtFaults = findTimeFaults('a version or an RFC 3339 time with an offset');

@Injectable()
export class OrderHistoryService {
  constructor(
    private readonly orders: OrdersService,
    @InjectRepository(OrderEvent) private readonly events: Repository<OrderEvent>,
  ) {}

  /**
   * The order as it was.
   * @param at a version, e.g. `2`, or an RFC 3339 time
   * @throws Problem validation-failed; not-found when the order did not exist then
   */
  async getAt(actor: Actor, id: string, at: string, readContext?: ReadContext): Promise<OrderView> {
    const isVersion = VERSION.test(at);
    const faults = isVersion ? [] : findAtFaults(at, 'at');
    if (faults.length > 0) {
      throw validationFailed(faults.map((fault) => ({ pointer: '/at', ...fault })));
    }
    const order = await this.orders.findReadable(actor, id, readContext);
    const events = isVersion
      ? await this.eventsUntilVersion(id, Number(at))
      : await this.eventsUntil(id, new Date(at));
    const last = events.at(-1);
    if (!last) throw problems.notFound();
    return orderView({
      ...order,
      ...(replay(events) as OrderState),
      version: last.version,
      updatedAt: last.occurredAt,
    });
  }

  /**
   * One page of the order's events, oldest first.
   * @throws Problem not-found; validation-failed for an invalid cursor
   */
  async listEvents(
    actor: Actor,
    id: string,
    { limit = DEFAULT_LIMIT, cursor }: ListEventsQuery,
    readContext?: ReadContext,
  ): Promise<SerializedPage> {
    await this.orders.findReadable(actor, id, readContext);
    const after = decodePosition(cursor, id) ?? 0;
    const batches = readByPosition({ version: after }, limit, (position, count) =>
      this.readEvents(id, position?.version ?? 0, count),
    );
    const { texts, last, hasNext } = await takePage(batches, limit, (event) =>
      JSON.stringify(orderEventView(event)),
    );
    const next = hasNext && last ? encodePosition(last.version, id) : null;
    return new SerializedPage(texts, next);
  }

  private readEvents(id: string, after: number, count: number): Promise<OrderEvent[]> {
    return this.events
      .createQueryBuilder('event')
      .where('event.orderId = :id AND event.version > :after', { id, after })
      .orderBy('event.version', 'ASC')
      .limit(count)
      .getMany();
  }

  /** @returns none when the order has no such version yet */
  private async eventsUntilVersion(id: string, version: number): Promise<OrderEvent[]> {
    const events = await this.eventsOf(id)
      .andWhere('event.version <= :version', { version })
      .getMany();
    return events.at(-1)?.version === version ? events : [];
  }

  private eventsUntil(id: string, time: Date): Promise<OrderEvent[]> {
    return this.eventsOf(id).andWhere('event.occurredAt <= :time', { time }).getMany();
  }

  private eventsOf(id: string) {
    return this.events
      .createQueryBuilder('event')
      .where('event.orderId = :id', { id })
      .orderBy('event.version', 'ASC');
  }
}
