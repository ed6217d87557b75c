/**
 * Places, changes, finds and lists orders. A write checks the rules and appends an event under
 * the row's lock (projection/order-writer.service.ts). Reads use the cache. An order that the
 * caller may not see is reported as not found.
 */
import { Injectable } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import type { Actor } from '../platform/access/actor.js';
import { describeRoles, may } from '../platform/access/policy.js';
import { CachedRepository } from '../platform/cache/cached-repository.js';
import { InjectCachedRepository } from '../platform/cache/cached.decorator.js';
import type { ReadContext } from '../platform/cache/read/read-context.js';
import type { Transaction } from '../platform/database/transaction.js';
import { UnitOfWork } from '../platform/database/unit-of-work.js';
import { entityTagOf } from '../platform/http/conditional/entity-tag.js';
import type { IfMatch } from '../platform/http/conditional/if-match.decorator.js';
import type { Representation } from '../platform/http/conditional/representation.js';
import {
  applyKeyset,
  decodeCursor,
  decodePosition,
  DEFAULT_LIMIT,
  encodePosition,
  type Keyset,
  readByKeys,
  readByPosition,
  SerializedPage,
  takePage,
  toKeysetPage,
} from '../platform/http/pagination.js';
import { problems } from '../platform/http/problems/problem.js';
import { invalidParameter } from '../platform/http/validation/validation-problem.js';
import {
  IdempotencyService,
  type IdempotentResponse,
} from '../platform/idempotency/idempotency.service.js';
import type { IdempotentRequest } from '../platform/idempotency/idempotent.decorator.js';
import { UsersService } from '../users/users.service.js';
import {
  allowedActions,
  canEverAct,
  dependsOnOwner,
  describeParties,
  EDITABLE_STATUS,
  explainRefusal,
  type LifecycleOrder,
  type OrderAction,
  transitionOf,
} from './order-lifecycle.js';
import { hasRoomForChange } from './order-versions.js';
import { Order } from './order.entity.js';
import {
  type ActOnOrder,
  type ChangeOrder,
  type ListOrdersQuery,
  type OrderItemInput,
  orderRepresentation,
  orderView,
  type OrderView,
  type PlaceOrder,
} from './orders.dto.js';
import { orderProblems } from './orders.errors.js';
import {
  toActionEvent,
  toChangedEvent,
  toPlacedEvent,
  totalOf,
} from './projection/order-events.js';
import { OrderWriter } from './projection/order-writer.service.js';

@Injectable()
export class OrdersService {
  constructor(
    @InjectCachedRepository(Order) private readonly orders: CachedRepository<Order>,
    @InjectRepository(Order) private readonly repository: Repository<Order>,
    private readonly users: UsersService,
    private readonly writer: OrderWriter,
    private readonly unitOfWork: UnitOfWork,
    private readonly idempotency: IdempotencyService,
  ) {}

  /**
   * Places an order, once for each Idempotency-Key.
   * @throws Problem validation-failed when the total exceeds 2^53 - 1, idempotency-key-reused,
   *   idempotency-key-in-flight
   */
  place(
    actor: Actor,
    request: IdempotentRequest,
    { currency, items, note = null }: PlaceOrder,
  ): Promise<IdempotentResponse> {
    return this.idempotency.runOnce(request, actor, async (transaction) => {
      requireSafeTotal(items);
      const placed = { userId: actor.userId, currency, items: items.map(itemOf), note };
      const event = toPlacedEvent(placed);
      const order = await this.writer.appendEvent(transaction, actor.userId, null, event);
      const headers = {
        Location: `/v1/orders/${order.id}`,
        ETag: entityTagOf(order.version),
      };
      return { status: 201, headers, body: orderView(order) };
    });
  }

  /**
   * Replaces items, note or both. Without either, returns the order as it is.
   * @throws Problem not-found, forbidden, precondition-required, version-mismatch,
   *   invalid-transition, validation-failed, too-many-versions
   */
  change(
    actor: Actor,
    id: string,
    ifMatch: IfMatch,
    { items, note }: ChangeOrder,
  ): Promise<OrderView> {
    return this.unitOfWork.runAs(actor, async (transaction) => {
      const order = await this.lockReadable(transaction, actor, id);
      if (!may(actor, 'order.change', order.userId)) {
        throw problems.forbidden('An order can be changed only by its owner');
      }
      ifMatch.require(order.version);
      if (order.status !== EDITABLE_STATUS) {
        const reason = `it can be changed only while ${EDITABLE_STATUS}`;
        const known = await this.findLifecycleOrder(transaction, actor, order);
        throw invalidTransition(actor, known, `The order is ${order.status}; ${reason}`);
      }
      if (items) requireSafeTotal(items);
      const changesNothing = items === undefined && note === undefined;
      if (changesNothing) return orderView(order);
      if (!hasRoomForChange(order.version)) throw orderProblems.tooManyVersions();
      const changes = {
        ...(items && { items: items.map(itemOf) }),
        ...(note !== undefined && { note }),
      };
      const event = toChangedEvent(changes);
      return orderView(await this.writer.appendEvent(transaction, actor.userId, order, event));
    });
  }

  /**
   * Takes an order to the next status, once for each Idempotency-Key.
   * @throws Problem not-found, forbidden, version-mismatch, invalid-transition,
   *   idempotency-key-reused, idempotency-key-in-flight
   */
  applyAction(
    actor: Actor,
    id: string,
    action: OrderAction,
    request: IdempotentRequest,
    ifMatch: IfMatch,
    { reason }: ActOnOrder,
  ): Promise<IdempotentResponse> {
    return this.idempotency.runOnce(request, actor, async (transaction) => {
      const before = await this.lockReadable(transaction, actor, id);
      const known = await this.findLifecycleOrder(transaction, actor, before);
      if (!canEverAct(actor, known, action)) {
        throw problems.forbidden(`${action} needs ${describeParties(action)}`);
      }
      ifMatch.check(before.version);
      const transition = transitionOf(actor, known, action);
      if (!transition) throw invalidTransition(actor, known, explainRefusal(actor, known, action));
      const event = toActionEvent(transition, before, reason);
      const order = await this.writer.appendEvent(transaction, actor.userId, before, event);
      const headers = { ETag: entityTagOf(order.version) };
      return { status: 200, headers, body: orderView(order) };
    });
  }

  /** @throws Problem not-found */
  async get(actor: Actor, id: string, readContext?: ReadContext): Promise<Representation> {
    return orderRepresentation(await this.findReadable(actor, id, readContext));
  }

  /**
   * The orders that exist and that the caller may see, each once, in the order of `ids`. One page,
   * which ends early when it grows too large.
   * @throws Problem validation-failed for an invalid cursor
   */
  async getMany(
    actor: Actor,
    ids: readonly string[],
    cursor?: string,
    readContext?: ReadContext,
  ): Promise<SerializedPage> {
    const unique = [...new Set(ids)];
    const list = unique.join();
    const begin = decodePosition(cursor, list) ?? 0;
    const batches = readByKeys(unique.slice(begin), async (keys) => {
      const orders = await this.orders.findByIds(keys, readContext);
      return orders.filter((order) => isReadable(actor, order));
    });
    const { texts, last, hasNext } = await takePage(batches, unique.length, orderJson);
    const end = unique.findIndex((id) => id === last?.id) + 1;
    return new SerializedPage(texts, hasNext ? encodePosition(end, list) : null);
  }

  /**
   * One page of orders, newest first. The first page of a user without other filters is cached.
   * @throws Problem forbidden for the orders of another user without a role; validation-failed for
   *   an invalid cursor
   */
  async list(
    actor: Actor,
    { status, createdFrom, createdTo, userId, limit = DEFAULT_LIMIT, cursor }: ListOrdersQuery,
    readContext?: ReadContext,
  ): Promise<SerializedPage> {
    const maySeeAll = may(actor, 'order.list-all');
    const isOfAnotherUser = userId !== undefined && userId !== actor.userId;
    if (isOfAnotherUser && !maySeeAll) {
      const roles = describeRoles('order.list-all');
      throw problems.forbidden(`userId of another user needs ${roles}`);
    }
    const ownerId = userId ?? (maySeeAll ? undefined : actor.userId);

    const filters = [ownerId ?? null, status ?? null, createdFrom ?? null, createdTo ?? null];
    const after = decodeCursor(cursor, filters);
    const isFirstPage = after === undefined;
    const hasFilter = status !== undefined || createdFrom !== undefined || createdTo !== undefined;
    if (ownerId !== undefined && isFirstPage && !hasFilter) {
      const count = limit + 1;
      const ids = await this.orders.findCollectionIds('ofUser', ownerId, count, readContext);
      const batches = readByKeys(ids, (keys) => this.orders.findByIds(keys, readContext));
      return toKeysetPage(await takePage(batches, limit, orderJson), filters);
    }

    const where = {
      ...(status !== undefined && { status }),
      ...(ownerId !== undefined && { userId: ownerId }),
    };
    const range = { where, from: dateOf(createdFrom), to: dateOf(createdTo) };
    const batches = readByPosition<Keyset, Order>(after, limit, (position, count) =>
      // applyKeyset reads one row more than the limit.
      applyKeyset(this.repository.createQueryBuilder('row'), position, count - 1, range).getMany(),
    );
    return toKeysetPage(await takePage(batches, limit, orderJson), filters);
  }

  /**
   * One page of a user's orders. The orders of a deleted user remain.
   * @throws Problem not-found for a user that never existed; see {@link list}
   */
  async listOfUser(
    actor: Actor,
    userId: string,
    query: ListOrdersQuery,
    readContext?: ReadContext,
  ): Promise<SerializedPage> {
    if (!(await this.users.hasEverExisted(userId))) throw problems.notFound();
    return this.list(actor, { ...query, userId }, readContext);
  }

  /** @throws Problem not-found, also for an order that the caller may not see */
  async findReadable(
    actor: Actor,
    id: string,
    readContext: ReadContext | undefined,
  ): Promise<Order> {
    return requireReadable(actor, await this.orders.findById(id, readContext));
  }

  private async lockReadable(transaction: Transaction, actor: Actor, id: string): Promise<Order> {
    return requireReadable(actor, await transaction.lock(Order, id));
  }

  /** Whether the owner is deleted counts only where the rules ask for it: it costs a read. */
  private async findLifecycleOrder(
    transaction: Transaction,
    actor: Actor,
    { userId, status }: Order,
  ): Promise<LifecycleOrder> {
    const isAsked = dependsOnOwner(status) && actor.userId !== userId;
    const ownerIsDeleted = isAsked && (await this.users.isDeleted(transaction, userId));
    return { userId, status, ownerIsDeleted };
  }
}

const orderJson = (order: Order): string => orderRepresentation(order).json;

const isReadable = (actor: Actor, order: Order | null): order is Order =>
  order !== null && may(actor, 'order.read', order.userId);

/** The response is the same for a hidden and a missing order; only the security log differs. */
function requireReadable(actor: Actor, order: Order | null): Order {
  if (isReadable(actor, order)) return order;
  throw problems.notFound(undefined, { isHidden: order !== null });
}

const invalidTransition = (actor: Actor, order: LifecycleOrder, detail: string): Error =>
  orderProblems.invalidTransition(detail, {
    extensions: { allowed: allowedActions(actor, order) },
  });

function requireSafeTotal(items: readonly OrderItemInput[]): void {
  const exceedsLimit = Number.isNaN(totalOf(items));
  if (exceedsLimit) {
    throw invalidParameter('items', 'total', 'items must total at most 2^53 - 1 minor units');
  }
}

/** Named fields only: the validated object may carry more. */
const itemOf = ({ sku, name, quantity, unitPrice }: OrderItemInput): OrderItemInput => ({
  sku,
  name,
  quantity,
  unitPrice,
});

const dateOf = (time: string | undefined): Date | undefined =>
  time === undefined ? undefined : new Date(time);
