/** The routes of orders. */
import { Readable } from 'node:stream';
import { Body, Controller, Get, HttpCode, Param, Patch, Post, Query, Req, Res } from '@nestjs/common';
import { RouteConfig } from '@nestjs/platform-fastify';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { CurrentReading } from '../cache/cache.interceptor.js';
import { Reading } from '../cache/reading.js';
import type { Representation } from '../cache/representation.js';
import { UnitOfWork } from '../database/unit-of-work.js';
import { type Actor, CurrentActor } from '../http/actor.js';
import { Idempotency, idempotencyProblems, Idempotent, type IdempotentRequest } from '../http/idempotency.js';
import { Operation } from '../http/openapi.js';
import { nextLink, type Page } from '../http/pagination.js';
import { etagOf, IfMatch, IfMatchHeader } from '../http/preconditions.js';
import { problems } from '../http/problem.js';
import { IdPipe, invalid } from '../http/validation.js';
import { ORDER_ACTIONS, type OrderAction, TRANSITIONS } from './order-lifecycle.js';
import { OrderSummaryService } from './order-summary.service.js';
import {
  ActOnOrder,
  ChangeOrder,
  GetOrderQuery,
  ListEventsQuery,
  ListOrdersQuery,
  OrderEventPage,
  OrderPage,
  OrderSummary,
  OrderView,
  PlaceOrder,
  SummaryQuery,
  UserOrdersQuery,
} from './orders.dto.js';
import { orderProblems } from './orders.errors.js';
import { OrdersService } from './orders.service.js';

const NDJSON = 'application/x-ndjson';

/** The lifecycle as the documentation shows it. */
const LIFECYCLE = TRANSITIONS.map(({ action, from, to, by }) => `- **${action}**: ${from} → ${to} (${by})`).join('\n');

@ApiTags('orders')
@Controller('v1/orders')
export class OrdersController {
  constructor(
    private readonly orders: OrdersService,
    private readonly summaries: OrderSummaryService,
    private readonly idempotency: Idempotency,
    private readonly unitOfWork: UnitOfWork,
  ) {}

  @Post()
  @Operation({
    allow: 'order.place',
    summary: 'Place an order',
    description: 'Places an order, exactly once for each Idempotency-Key.',
    status: 201,
    type: OrderView,
    headers: ['Location', 'ETag', 'Idempotent-Replayed'],
    accepts: ['Idempotency-Key!'],
    body: true,
    problems: Object.values(idempotencyProblems),
  })
  async placeOrder(
    @CurrentActor() actor: Actor,
    @Idempotent(true) request: IdempotentRequest,
    @Body() body: PlaceOrder,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    await this.idempotency.once(request, actor, reply, async (transaction) => {
      const order = await this.orders.place(transaction, actor, body);
      return { status: 201, headers: { Location: `/v1/orders/${order.id}`, ETag: etagOf(order.version) }, body: order };
    });
  }

  @Get()
  @Operation({
    allow: 'order.list',
    summary: 'List orders, newest first, or read many by id',
    description:
      "One's own, newest first; support and admin see all. With `ids`: those that exist and may be seen, in the order asked.",
    type: OrderPage,
    headers: ['Link', 'Cache-Control', 'Cache-Status'],
    accepts: ['Cache-Control'],
    problems: [problems.validationFailed, problems.forbidden],
  })
  async listOrders(
    @CurrentActor() actor: Actor,
    @Query() query: ListOrdersQuery,
    @CurrentReading() reading: Reading,
    @Req() request: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<OrderPage> {
    if (query.ids === undefined) return withLink(await this.orders.list(actor, query, reading), request, reply);
    if (Object.values(query).filter((value) => value !== undefined).length > 1)
      throw invalid('ids', 'ids-alone', 'ids goes with no other parameter');
    return { data: await this.orders.getMany(actor, query.ids, reading), next: null };
  }

  @Get('summary')
  @Operation({
    allow: 'order.summary',
    summary: 'Counts and totals by day, status and currency',
    description:
      'Counts and totals by day, status and currency. May lag by half a minute; with `Cache-Control: no-cache` it does not.',
    type: OrderSummary,
    headers: ['Cache-Control', 'Cache-Status'],
    accepts: ['Cache-Control'],
    problems: [problems.validationFailed, problems.forbidden],
  })
  summarizeOrders(@Query() query: SummaryQuery, @CurrentReading() reading: Reading): Promise<OrderSummary> {
    return this.summaries.summary(query, reading);
  }

  @Get('export')
  @RouteConfig({ produces: [NDJSON] })
  @Operation({
    allow: 'order.export',
    summary: 'All orders as NDJSON',
    description: 'All orders, newest first, one JSON object a line, as fast as the client reads.',
    type: OrderView,
    produces: NDJSON,
    problems: [problems.forbidden],
  })
  exportOrders(@Req() { method }: FastifyRequest, @Res() reply: FastifyReply): void {
    void reply
      .header('Content-Type', NDJSON)
      .header('Cache-Control', 'no-store')
      // HEAD would otherwise read every order to throw it away.
      .send(Readable.from(method === 'HEAD' ? [] : this.orders.export()));
  }

  @Get(':id')
  @Operation({
    allow: 'order.read',
    summary: 'Read an order, as it is or as it was',
    type: OrderView,
    headers: ['ETag', 'Cache-Control', 'Cache-Status'],
    accepts: ['If-None-Match', 'Cache-Control'],
    problems: [problems.validationFailed, problems.notFound],
  })
  getOrder(
    @CurrentActor() actor: Actor,
    @Param('id', IdPipe) id: string,
    @Query() { at }: GetOrderQuery,
    @CurrentReading() reading: Reading,
  ): Promise<Representation | OrderView> {
    return at === undefined ? this.orders.get(actor, id, reading) : this.orders.getAt(actor, id, at, reading);
  }

  @Get(':id/events')
  @Operation({
    allow: 'order.read',
    summary: "Read an order's events, oldest first",
    type: OrderEventPage,
    headers: ['Link', 'Cache-Control', 'Cache-Status'],
    problems: [problems.validationFailed, problems.notFound],
  })
  async listOrderEvents(
    @CurrentActor() actor: Actor,
    @Param('id', IdPipe) id: string,
    @Query() query: ListEventsQuery,
    @CurrentReading() reading: Reading,
    @Req() request: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<OrderEventPage> {
    return withLink(await this.orders.listEvents(actor, id, query, reading), request, reply);
  }

  @Patch(':id')
  @Operation({
    allow: 'order.read',
    summary: 'Change items or note while the order is placed',
    type: OrderView,
    headers: ['ETag'],
    accepts: ['If-Match!'],
    body: true,
    problems: [
      problems.forbidden,
      problems.notFound,
      problems.versionMismatch,
      problems.preconditionRequired,
      orderProblems.invalidTransition,
    ],
  })
  async changeOrder(
    @CurrentActor() actor: Actor,
    @Param('id', IdPipe) id: string,
    @IfMatchHeader() ifMatch: IfMatch,
    @Body() body: ChangeOrder,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<OrderView> {
    const order = await this.unitOfWork.run((transaction) => this.orders.change(transaction, actor, id, ifMatch, body));
    void reply.header('ETag', etagOf(order.version));
    return order;
  }

  @Post(ORDER_ACTIONS.map((action) => `:id/${action}`))
  @HttpCode(200)
  @Operation({
    allow: 'order.act',
    summary: 'Take an order one step further',
    description: `Takes an order one step further in its life:\n\n${LIFECYCLE}`,
    type: OrderView,
    headers: ['ETag', 'Idempotent-Replayed'],
    accepts: ['If-Match', 'Idempotency-Key'],
    body: true,
    problems: [
      problems.forbidden,
      problems.notFound,
      problems.versionMismatch,
      orderProblems.invalidTransition,
      idempotencyProblems.malformed,
      idempotencyProblems.inFlight,
      idempotencyProblems.reused,
    ],
  })
  async actOnOrder(
    @CurrentActor() actor: Actor,
    @Param('id', IdPipe) id: string,
    @IfMatchHeader() ifMatch: IfMatch,
    @Idempotent(false) request: IdempotentRequest,
    @Body() { reason }: ActOnOrder,
    @Req() { routeOptions }: FastifyRequest,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const action = routeOptions.url?.split('/').at(-1) as OrderAction;
    await this.idempotency.once(request, actor, reply, async (transaction) => {
      const order = await this.orders.act(transaction, actor, id, action, ifMatch, reason);
      return { status: 200, headers: { ETag: etagOf(order.version) }, body: order };
    });
  }
}

@ApiTags('orders')
@Controller('v1/users/:id/orders')
export class UserOrdersController {
  constructor(private readonly orders: OrdersService) {}

  @Get()
  @Operation({
    allow: 'user.orders',
    summary: "List one user's orders, newest first",
    type: OrderPage,
    headers: ['Link', 'Cache-Control', 'Cache-Status'],
    accepts: ['Cache-Control'],
    problems: [problems.validationFailed, problems.notFound],
  })
  async listUserOrders(
    @CurrentActor() actor: Actor,
    @Param('id', IdPipe) id: string,
    @Query() query: UserOrdersQuery,
    @CurrentReading() reading: Reading,
    @Req() request: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<OrderPage> {
    return withLink(await this.orders.listOf(actor, id, query, reading), request, reply);
  }
}

function withLink<T>(page: Page<T>, request: FastifyRequest, reply: FastifyReply): Page<T> {
  if (page.next) void reply.header('Link', nextLink(request.url, page.next));
  return page;
}
