/** The routes of orders. */
import {
  Body,
  Controller,
  Get,
  HttpCode,
  Param,
  Patch,
  Post,
  Query,
  Req,
  Res,
} from '@nestjs/common';
import { RouteConfig } from '@nestjs/platform-fastify';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { CurrentReading } from '../cache/cache.headers.js';
import { Reading } from '../cache/reading.js';
import type { Representation } from '../cache/representation.js';
import { UnitOfWork } from '../database/unit-of-work.js';
import { type Actor, CurrentActor } from '../http/actor.js';
import {
  Idempotency,
  idempotencyProblems,
  Idempotent,
  type IdempotentRequest,
} from '../http/idempotency.js';
import { Operation } from '../http/openapi.js';
import { nextLink, type Page } from '../http/pagination.js';
import { etagOf, IfMatch, IfMatchHeader } from '../http/preconditions.js';
import { problems } from '../http/problem.js';
import { StreamedAnswers } from '../http/streamed-answers.js';
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

/** What each action's route says of itself, out of the table of the lifecycle. */
const VARIANTS = Object.fromEntries(
  ORDER_ACTIONS.map((action) => {
    const steps = TRANSITIONS.filter((step) => step.action === action);
    const moves = steps.map(({ from, to, by }) => `from \`${from}\` to \`${to}\` (${by})`);
    const Action = action.replace(/^./, (letter) => letter.toUpperCase());
    return [
      action,
      {
        operationId: `${action}Order`,
        summary: `${Action} an order`,
        description: `Takes an order ${moves.join(', or ')}. The body may be left out. In any other state it is a 409 that says what is \`allowed\`.`,
      },
    ];
  }),
);

@ApiTags('orders')
@Controller('v1/orders')
export class OrdersController {
  constructor(
    private readonly orders: OrdersService,
    private readonly summaries: OrderSummaryService,
    private readonly streams: StreamedAnswers,
    private readonly idempotency: Idempotency,
    private readonly unitOfWork: UnitOfWork,
  ) {}

  @Post()
  @Operation({
    allow: 'order.place',
    summary: 'Place an order',
    description:
      'Places an order, exactly once for each `Idempotency-Key`: sent again with the same key, the answer is the same and `Idempotent-Replayed` says so. A new order needs a new key.',
    status: 201,
    type: OrderView,
    returns: 'The new order.',
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
      return {
        status: 201,
        headers: { Location: `/v1/orders/${order.id}`, ETag: etagOf(order.version) },
        body: order,
      };
    });
  }

  @Get()
  @Operation({
    allow: 'order.list',
    summary: 'List orders, or read many by id',
    description:
      "One's own, newest first, page by page; `support` and `admin` see all. With `ids`: those that exist and may be seen, in the order asked.",
    type: OrderPage,
    returns: 'A page of orders.',
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
    if (query.ids === undefined)
      return withLink(await this.orders.list(actor, query, reading), request, reply);
    if (Object.values(query).filter((value) => value !== undefined).length > 1)
      throw invalid('ids', 'ids-alone', 'ids goes with no other parameter');
    return { data: await this.orders.getMany(actor, query.ids, reading), next: null };
  }

  @Get('summary')
  @Operation({
    allow: 'order.summary',
    summary: 'Counts and totals by day, status and currency',
    description:
      'From figures that follow the events, kept for up to 10 seconds: `Age` says how many seconds old they may be. With `Cache-Control: no-cache` the orders are counted.',
    type: OrderSummary,
    returns: 'The counts and totals.',
    headers: ['Age', 'Cache-Control', 'Cache-Status'],
    accepts: ['Cache-Control'],
    problems: [problems.validationFailed, problems.forbidden],
  })
  async summarizeOrders(
    @Query() query: SummaryQuery,
    @CurrentReading() reading: Reading,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<OrderSummary> {
    const { summary, asOf } = await this.summaries.summary(query, reading);
    void reply.header('Age', String(Math.max(0, Math.ceil((Date.now() - asOf) / 1000))));
    return summary;
  }

  @Get('export')
  @RouteConfig({ produces: [NDJSON] })
  @Operation({
    allow: 'order.export',
    summary: 'Export all orders as NDJSON',
    description: 'All orders, newest first, one JSON object a line, as fast as the client reads.',
    type: OrderView,
    returns: 'Orders, one a line: the schema is that of a line.',
    headers: ['Cache-Control'],
    produces: NDJSON,
    problems: [problems.forbidden],
  })
  exportOrders(@Req() { method }: FastifyRequest, @Res() reply: FastifyReply): void {
    void reply.header('Content-Type', NDJSON).header('Cache-Control', 'no-store');
    // HEAD would otherwise read every order to throw it away.
    this.streams.send(reply, method === 'HEAD' ? [] : this.orders.export());
  }

  @Get(':id')
  @Operation({
    allow: 'order.read',
    summary: 'Read an order, as it is or as it was',
    description: 'An order by id. With `at`: as it was at that version or time.',
    type: OrderView,
    returns: 'The order.',
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
    return at === undefined
      ? this.orders.get(actor, id, reading)
      : this.orders.getAt(actor, id, at, reading);
  }

  @Get(':id/events')
  @Operation({
    allow: 'order.read',
    summary: "Read an order's events",
    description: 'All that happened to the order, oldest first, page by page.',
    type: OrderEventPage,
    returns: 'A page of events.',
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
    allow: 'order.change',
    summary: 'Change items or note while the order is placed',
    description:
      'Changes what the body names and leaves the rest. `If-Match` says which version is meant, so that no change of another is lost.',
    type: OrderView,
    returns: 'The order, changed.',
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
    const order = await this.unitOfWork.runAs(actor, (transaction) =>
      this.orders.change(transaction, actor, id, ifMatch, body),
    );
    void reply.header('ETag', etagOf(order.version));
    return order;
  }

  @Post(ORDER_ACTIONS.map((action) => `:id/${action}`))
  @HttpCode(200)
  @Operation({
    allow: 'order.act',
    summary: 'Take an order one step further',
    variants: VARIANTS,
    type: OrderView,
    returns: 'The order, one step further.',
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
    summary: "List one user's orders",
    description:
      "One user's orders, newest first, page by page; also those of a user who was deleted since.",
    type: OrderPage,
    returns: 'A page of orders.',
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
