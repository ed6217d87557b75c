/**
 * Orders: each change is an event appended under the row's lock, the projection that `evolve` makes of it, and a message in
 * the outbox, in one transaction. Reads go through the cache; what a caller may not see is "not found".
 */
import { Injectable } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import { v7 as uuidv7 } from 'uuid';
import { AuthService } from '../auth/auth.service.js';
import { CachedRepository } from '../cache/cached-repository.js';
import { InjectCachedRepository } from '../cache/cached.decorator.js';
import type { Reading } from '../cache/reading.js';
import type { Representation } from '../cache/representation.js';
import { Replicas } from '../database/replicas.js';
import type { Transaction } from '../database/unit-of-work.js';
import type { Actor } from '../http/actor.js';
import { isTime } from '../http/fields.js';
import {
  decodeCursor,
  decodePosition,
  DEFAULT_LIMIT,
  encodePosition,
  keyset,
  type Page,
  pageOf,
} from '../http/pagination.js';
import type { IfMatch } from '../http/preconditions.js';
import { problems } from '../http/problem.js';
import { invalid } from '../http/validation.js';
import { OutboxService } from '../outbox/outbox.service.js';
import { UsersService } from '../users/users.service.js';
import { OrderEvent } from './order-event.entity.js';
import {
  changed,
  EVENT_SCHEMA,
  evolve,
  type OrderFact,
  type OrderState,
  placed,
  replay,
  totalOf,
} from './order-events.js';
import {
  allowedActions,
  EDITABLE,
  mayEver,
  type OrderAction,
  transitionOf,
} from './order-lifecycle.js';
import { Order } from './order.entity.js';
import type {
  ChangeOrder,
  ListEventsQuery,
  ListOrdersQuery,
  OrderEventView,
  OrderItemInput,
  OrderView,
  PlaceOrder,
} from './orders.dto.js';
import { orderEventView, orderRepresentation, orderView } from './orders.dto.js';
import { orderProblems } from './orders.errors.js';

/** Rows that the export reads at a time: what it holds in memory, whatever the table's size. */
const EXPORT_BATCH = 500;

@Injectable()
export class OrdersService {
  constructor(
    @InjectCachedRepository(Order) private readonly orders: CachedRepository<Order>,
    @InjectRepository(Order) private readonly table: Repository<Order>,
    @InjectRepository(OrderEvent) private readonly events: Repository<OrderEvent>,
    private readonly users: UsersService,
    private readonly auth: AuthService,
    private readonly outbox: OutboxService,
    private readonly replicas: Replicas,
  ) {}

  /** @throws Problem validation-failed when the total passes 2^53 - 1 */
  async place(
    transaction: Transaction,
    actor: Actor,
    { currency, items, note = null }: PlaceOrder,
  ): Promise<OrderView> {
    this.checkTotal(items);
    const fact = placed({ userId: actor.userId, currency, items: items.map(itemOf), note });
    return this.append(transaction, actor, null, fact);
  }

  /** @throws Problem not-found, forbidden, precondition-required, version-mismatch, invalid-transition, validation-failed */
  async change(
    transaction: Transaction,
    actor: Actor,
    id: string,
    ifMatch: IfMatch,
    { items, note }: ChangeOrder,
  ): Promise<OrderView> {
    const order = await this.lockVisible(transaction, actor, id);
    if (!this.auth.may(actor, 'order.change', order.userId)) throw problems.forbidden();
    ifMatch.require(order.version);
    if (order.status !== EDITABLE)
      throw this.notNow(
        actor,
        order,
        `An order can be changed while it is ${EDITABLE}; this one is ${order.status}.`,
      );
    if (items) this.checkTotal(items);
    if (items === undefined && note === undefined) return orderView(order);
    const changes = {
      ...(items ? { items: items.map(itemOf) } : {}),
      ...(note === undefined ? {} : { note }),
    };
    return this.append(transaction, actor, order, changed(changes));
  }

  /** @throws Problem not-found, forbidden, version-mismatch, invalid-transition */
  async act(
    transaction: Transaction,
    actor: Actor,
    id: string,
    action: OrderAction,
    ifMatch: IfMatch,
    reason?: string,
  ): Promise<OrderView> {
    const order = await this.lockVisible(transaction, actor, id);
    if (!mayEver(actor, order.userId, action)) throw problems.forbidden();
    ifMatch.check(order.version);
    const step = transitionOf(actor, order, action);
    if (!step)
      throw this.notNow(
        actor,
        order,
        `An order that is ${order.status} has no ${action} for this caller.`,
      );
    return this.append(transaction, actor, order, {
      type: step.event,
      data: reason === undefined ? {} : { reason },
    });
  }

  /** @throws Problem not-found */
  async get(actor: Actor, id: string, reading?: Reading): Promise<Representation> {
    return orderRepresentation(await this.visible(actor, id, reading));
  }

  /** The order as it was at a version or a time. @throws Problem not-found, validation-failed */
  async getAt(actor: Actor, id: string, at: string, reading?: Reading): Promise<OrderView> {
    const version = /^[1-9]\d{0,14}$/.test(at) ? Number(at) : undefined;
    if (version === undefined && !isTime(at))
      throw invalid('at', 'at', 'at must be a version or an RFC 3339 time with an offset');
    const order = await this.visible(actor, id, reading);
    const query = this.events
      .createQueryBuilder('event')
      .where('event.orderId = :id', { id })
      .orderBy('event.version', 'ASC');
    if (version === undefined) query.andWhere('event.occurredAt <= :at', { at: new Date(at) });
    else query.andWhere('event.version <= :version', { version });
    const events = await query.getMany();
    const last = events.at(-1);
    if (!last || (version !== undefined && last.version !== version)) throw problems.notFound();
    return orderView({
      ...order,
      ...(replay(events) as OrderState),
      version: last.version,
      updatedAt: last.occurredAt,
    });
  }

  /** Those that exist and may be seen, each once, in the order asked. */
  async getMany(actor: Actor, ids: readonly string[], reading?: Reading): Promise<OrderView[]> {
    const orders = await this.orders.findByIds([...new Set(ids)], reading);
    return orders
      .filter(
        (order): order is Order =>
          order !== null && this.auth.may(actor, 'order.read', order.userId),
      )
      .map(orderView);
  }

  /** @throws Problem forbidden for another's list without a role; validation-failed for a bad cursor */
  async list(
    actor: Actor,
    { status, createdFrom, createdTo, userId, limit = DEFAULT_LIMIT, cursor }: ListOrdersQuery,
    reading?: Reading,
  ): Promise<Page<OrderView>> {
    const all = this.auth.may(actor, 'order.list-all');
    if (userId !== undefined && userId !== actor.userId && !all) throw problems.forbidden();
    const owner = userId ?? (all ? undefined : actor.userId);
    const filters = [owner ?? null, status ?? null, createdFrom ?? null, createdTo ?? null];
    const after = decodeCursor(cursor, filters);

    if (owner !== undefined && !after && !status && !createdFrom && !createdTo) {
      return pageOf(
        await this.orders.findCollection('ofUser', owner, limit + 1, reading),
        limit,
        filters,
        orderView,
      );
    }
    const part = {
      where: { ...(status && { status }), ...(owner !== undefined && { userId: owner }) },
      from: createdFrom === undefined ? undefined : new Date(createdFrom),
      to: createdTo === undefined ? undefined : new Date(createdTo),
    };
    const query = keyset(this.table.createQueryBuilder('row'), after, limit, part);
    return pageOf(await query.getMany(), limit, filters, orderView);
  }

  /** One user's; a deleted user's orders stay. @throws Problem not-found for a user that never was */
  async listOf(
    actor: Actor,
    userId: string,
    query: ListOrdersQuery,
    reading?: Reading,
  ): Promise<Page<OrderView>> {
    if (!(await this.users.everExisted(userId))) throw problems.notFound();
    return this.list(actor, { ...query, userId }, reading);
  }

  /** Oldest first. @throws Problem not-found, validation-failed */
  async listEvents(
    actor: Actor,
    id: string,
    { limit = DEFAULT_LIMIT, cursor }: ListEventsQuery,
    reading?: Reading,
  ): Promise<Page<OrderEventView>> {
    await this.visible(actor, id, reading);
    const after = decodePosition(cursor, id) ?? 0;
    const rows = await this.events
      .createQueryBuilder('event')
      .where('event.orderId = :id AND event.version > :after', { id, after })
      .orderBy('event.version', 'ASC')
      .limit(limit + 1)
      .getMany();
    const data = rows.slice(0, limit).map(orderEventView);
    const last = data.at(-1);
    return { data, next: rows.length > limit && last ? encodePosition(last.version, id) : null };
  }

  /** Every order, newest first, one JSON text a line, as a replica has it; read as fast as the client takes it, a bounded number at a time. */
  async *export(): AsyncGenerator<string> {
    let after: Order | undefined;
    do {
      const rows: Order[] = await this.replicas.read((manager) =>
        keyset(manager.createQueryBuilder(Order, 'row'), after, EXPORT_BATCH - 1).getMany(),
      );
      yield rows.map((row) => JSON.stringify(orderView(row)) + '\n').join('');
      after = rows.length === EXPORT_BATCH ? rows.at(-1) : undefined;
    } while (after);
  }

  private async visible(actor: Actor, id: string, reading: Reading | undefined): Promise<Order> {
    const order = await this.orders.findById(id, reading);
    return this.shown(actor, order);
  }

  /** What a caller may not see is not there; only the log can tell the two apart. */
  private shown(actor: Actor, order: Order | null): Order {
    if (order && this.auth.may(actor, 'order.read', order.userId)) return order;
    throw problems.notFound(undefined, { hides: order !== null });
  }

  private async lockVisible(transaction: Transaction, actor: Actor, id: string): Promise<Order> {
    const order = await transaction.lock(Order, id);
    return this.shown(actor, order);
  }

  /** The one place where an order changes: the projection that `evolve` makes, the event, and the message that tells of it. */
  private async append(
    transaction: Transaction,
    actor: Actor,
    before: Order | null,
    fact: OrderFact,
  ): Promise<OrderView> {
    const state = evolve(before, fact);
    const order = before
      ? await transaction.update(before, state)
      : await transaction.insert(Order, { id: uuidv7(), ...state });
    if (!order) throw problems.versionMismatch();
    const { id, version, userId, status, currency, total, createdAt, updatedAt } = order;
    const { type, data } = fact;
    const event = { orderId: id, version, type, schema: EVENT_SCHEMA, data, actorId: actor.userId };
    await transaction.manager.insert(OrderEvent, { ...event, occurredAt: updatedAt } as never);
    const previous = before && { status: before.status, total: before.total };
    await this.outbox.append(transaction, {
      type,
      subject: `orders/${id}`,
      data: { version, userId, status, currency, total, createdAt, previous },
    });
    return orderView(order);
  }

  private notNow(actor: Actor, order: Order, detail: string): Error {
    return orderProblems.invalidTransition(detail, {
      extensions: { allowed: allowedActions(actor, order) },
    });
  }

  private checkTotal(items: readonly OrderItemInput[]): void {
    if (Number.isNaN(totalOf(items)))
      throw invalid('items', 'total', 'items must not total more than 2^53 - 1 minor units');
  }
}

const itemOf = ({ sku, name, quantity, unitPrice }: OrderItemInput): OrderItemInput => ({
  sku,
  name,
  quantity,
  unitPrice,
});
