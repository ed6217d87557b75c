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
import { MAX_EVENTS_PER_PAGE, type PastOrder, replayUntil } from './replay-past.js';
import { ReplayQueue } from './replay-queue.js';

/** An event may have 100 KB. More of them at once would keep the event loop for too long. */
const MAX_EVENTS_PER_READ = 8;

/** Up to 15 digits: exact as a number. */
const VERSION = /^[1-9]\d{0,14}$/;

/** The last version up to a version and a time; null when there is none. */
const SELECT_LAST_VERSION = `
  SELECT max(version) AS version FROM order_events
   WHERE order_id = $1 AND version <= $2 AND occurred_at <= $3`;

const findAtFaults = findTimeFaults('a version or an RFC 3339 time with an offset');

@Injectable()
export class OrderHistoryService {
  constructor(
    private readonly orders: OrdersService,
    @InjectRepository(OrderEvent) private readonly events: Repository<OrderEvent>,
    private readonly queue: ReplayQueue,
  ) {}

  /**
   * The order as it was.
   * @param at a version, e.g. `2`, or an RFC 3339 time
   * @throws Problem validation-failed; not-found when the order did not exist then; overloaded when
   *   too many long replays wait
   */
  async getAt(actor: Actor, id: string, at: string, readContext?: ReadContext): Promise<OrderView> {
    const isVersion = VERSION.test(at);
    const faults = isVersion ? [] : findAtFaults(at, 'at');
    if (faults.length > 0) {
      throw validationFailed(faults.map((fault) => ({ pointer: '/at', ...fault })));
    }
    const order = await this.orders.findReadable(actor, id, readContext);
    const version = isVersion
      ? await this.findVersion(id, Number(at))
      : await this.findVersionAt(id, new Date(at));
    if (version === undefined) throw problems.notFound();
    const past = await this.replayInTurn(actor, id, version);
    const { state, updatedAt } = past;
    return orderView({ ...order, ...state, version, updatedAt });
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
    const batches = readByPosition(
      { version: after },
      limit,
      (position, count) => this.readEvents(id, position?.version ?? 0, count),
      MAX_EVENTS_PER_READ,
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

  /** A replay of one page takes what a list takes. A longer one waits for its turn. */
  private replayInTurn(actor: Actor, id: string, version: number): Promise<PastOrder> {
    const work = (): Promise<PastOrder> => replayUntil(this.events, id, version);
    const isLong = version > MAX_EVENTS_PER_PAGE;
    return isLong ? this.queue.run({ lane: 'replay', caller: actor.userId }, work) : work();
  }

  /** @returns undefined when the order has no such version yet */
  private async findVersion(id: string, version: number): Promise<number | undefined> {
    const last = await this.findLastVersion(id, version, 'infinity');
    return last === version ? last : undefined;
  }

  /** @returns undefined when the order did not exist then */
  private findVersionAt(id: string, time: Date): Promise<number | undefined> {
    return this.findLastVersion(id, Number.MAX_SAFE_INTEGER, time);
  }

  private async findLastVersion(
    id: string,
    version: number,
    time: Date | 'infinity',
  ): Promise<number | undefined> {
    const values = [id, version, time];
    const rows: { version: string | null }[] = await this.events.query(SELECT_LAST_VERSION, values);
    const last = rows[0]?.version ?? null;
    return last === null ? undefined : Number(last);
  }
}
