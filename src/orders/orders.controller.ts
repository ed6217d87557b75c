/** The routes of orders: /v1/orders. */
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
import { RouteSettings } from '../platform/http/server/route-settings.decorator.js';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Actor } from '../platform/access/actor.js';
import { ReadContext } from '../platform/cache/read/read-context.js';
import { CurrentReadContext } from '../platform/http/conditional/read-context.decorator.js';
import { entityTagOf } from '../platform/http/conditional/entity-tag.js';
import { IfMatch, IfMatchHeader } from '../platform/http/conditional/if-match.decorator.js';
import type { Representation } from '../platform/http/conditional/representation.js';
import { Operation } from '../platform/http/openapi/operation.decorator.js';
import { nextLink, type SerializedPage } from '../platform/http/pagination.js';
import { problems } from '../platform/http/problems/problem.js';
import { CurrentActor } from '../platform/http/server/current-actor.decorator.js';
import { sendLines } from '../platform/http/server/streamed-responses.js';
import { IdPipe } from '../platform/http/validation/id.pipe.js';
import { invalidParameter } from '../platform/http/validation/validation-problem.js';
import { idempotencyProblems } from '../platform/idempotency/idempotency.errors.js';
import { sendIdempotentResponse } from '../platform/idempotency/idempotency.service.js';
import {
  Idempotent,
  type IdempotentRequest,
} from '../platform/idempotency/idempotent.decorator.js';
import { OrderSummary, SummaryQuery } from './daily-totals/order-summary.dto.js';
import { OrderSummaryService } from './daily-totals/order-summary.service.js';
import { describeParty, ORDER_ACTIONS, type OrderAction, TRANSITIONS } from './order-lifecycle.js';
import { MAX_CHANGED_VERSION, MAX_ORDER_VERSIONS } from './order-versions.js';
import {
  ActOnOrder,
  ChangeOrder,
  GetOrderQuery,
  ListEventsQuery,
  ListOrdersQuery,
  OrderEventPage,
  OrderPage,
  OrderView,
  PlaceOrder,
} from './orders.dto.js';
import { orderProblems } from './orders.errors.js';
import { OrderExportService } from './order-export.service.js';
import { OrdersService } from './orders.service.js';
import { OrderHistoryService } from './projection/order-history.service.js';
import { MAX_EVENTS_PER_PAGE } from './projection/replay-past.js';

const NDJSON = 'application/x-ndjson';

/** The OpenAPI texts of each action's route, from the table of transitions. */
const ACTION_VARIANTS = Object.fromEntries(
  ORDER_ACTIONS.map((action) => {
    const moves = TRANSITIONS.filter(
      (transition) => transition.action === action && transition.by !== 'operator',
    ).map(
      (transition) =>
        `from \`${transition.from}\` to \`${transition.to}\` (${describeParty(transition)})`,
    );
    return [
      action,
      {
        operationId: `${action}Order`,
        summary: `${action.charAt(0).toUpperCase()}${action.slice(1)} an order`,
        description:
          `Moves an order ${moves.join(', or ')}. The body is optional. In any other status ` +
          `the response is 409; its \`allowed\` lists the actions that this caller can take ` +
          'now.',
      },
    ];
  }),
);

@ApiTags('orders')
@Controller('v1/orders')
export class OrdersController {
  constructor(
    private readonly orders: OrdersService,
    private readonly history: OrderHistoryService,
    private readonly summaries: OrderSummaryService,
    private readonly exports: OrderExportService,
  ) {}

  @Post()
  @Operation({
    allow: 'order.place',
    summary: 'Place an order',
    description:
      'Places an order exactly once for each `Idempotency-Key`. A retry with the same key and ' +
      'body gets the same response again, with `Idempotent-Replayed: true`. Use a new key for ' +
      'each new order.',
    status: 201,
    type: OrderView,
    returns: 'The new order.',
    headers: ['Location', 'ETag', 'Idempotent-Replayed'],
    accepts: ['Idempotency-Key!'],
    hasBody: true,
    problems: Object.values(idempotencyProblems),
  })
  async placeOrder(
    @CurrentActor() actor: Actor,
    @Idempotent({ isRequired: true }) idempotentRequest: IdempotentRequest,
    @Body() body: PlaceOrder,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const response = await this.orders.place(actor, idempotentRequest, body);
    sendIdempotentResponse(reply, response);
  }

  @Get()
  @Operation({
    allow: 'order.list',
    summary: 'List orders, or read many by id',
    description:
      'Lists orders page by page, newest first: the orders of the caller, or all orders for ' +
      '`support` and `admin`. With `ids`, returns the orders that exist and that the caller ' +
      'may see, in the order of `ids`. A page ends early if its orders exceed 1 MiB together: ' +
      'its `next` leads to the others.',
    type: OrderPage,
    returns: 'A page of orders.',
    headers: ['Link', 'Cache-Control', 'Cache-Status'],
    accepts: ['Cache-Control'],
    problems: [problems.validationFailed, problems.forbidden],
  })
  async listOrders(
    @CurrentActor() actor: Actor,
    @Query() query: ListOrdersQuery,
    @CurrentReadContext() readContext: ReadContext,
    @Req() request: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<SerializedPage> {
    const { ids, cursor, ...filters } = query;
    const hasFilters = Object.values(filters).some((value) => value !== undefined);
    if (ids !== undefined && hasFilters) {
      const message = 'ids cannot be combined with other parameters, except cursor';
      throw invalidParameter('ids', 'ids-alone', message);
    }
    const page =
      ids === undefined
        ? await this.orders.list(actor, query, readContext)
        : await this.orders.getMany(actor, ids, cursor, readContext);
    if (page.next) void reply.header('Link', nextLink(request.url, page.next));
    return page;
  }

  @Get('summary')
  @Operation({
    allow: 'order.summary',
    summary: 'Count and total orders by day, status and currency',
    description:
      'Returns counts and totals that are at most 10 seconds old. They can be older while events ' +
      'wait to be processed. `Age` is their age in seconds. With `Cache-Control: no-cache`, the ' +
      'orders are counted now.',
    type: OrderSummary,
    returns: 'The counts and totals.',
    headers: ['Age', 'Cache-Control', 'Cache-Status'],
    accepts: ['Cache-Control'],
    problems: [problems.validationFailed, problems.forbidden],
  })
  async summarizeOrders(
    @Query() query: SummaryQuery,
    @CurrentReadContext() readContext: ReadContext,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<OrderSummary> {
    const { summary, asOf } = await this.summaries.summarize(query, readContext);
    const ageSeconds = Math.max(0, Math.ceil((Date.now() - asOf) / 1000));
    void reply.header('Age', String(ageSeconds));
    return summary;
  }

  @Get('export')
  @RouteSettings({ produces: [NDJSON] })
  @Operation({
    allow: 'order.export',
    summary: 'Export all orders as NDJSON',
    description:
      'Streams all orders, newest first, one JSON object a line, as fast as the client reads. ' +
      'A client that reads nothing for 30 seconds is disconnected. A complete export ends with ' +
      'the trailer field `X-Total-Count` (RFC 9110, section 6.5): the number of its lines. An ' +
      'export that is cut short has no trailer and no last chunk, so an HTTP client reports it ' +
      'as an incomplete response. HTTP/1.0 has neither.',
    type: OrderView,
    returns: 'Orders, one JSON object a line, each as `x-item-schema` describes it.',
    headers: ['Cache-Control', 'Trailer'],
    produces: NDJSON,
    problems: [problems.forbidden],
  })
  exportOrders(@Res() reply: FastifyReply): void {
    void reply.header('Content-Type', NDJSON).header('Cache-Control', 'no-store');
    sendLines(reply, this.exports.export());
  }

  @Get(':id')
  @Operation({
    allow: 'order.read',
    summary: 'Read an order, now or as it was',
    description:
      'Returns an order. With `at`, returns it as it was at that version or time, replayed from ' +
      'its events. The service replays few orders with more than ' +
      `${MAX_EVENTS_PER_PAGE} versions at a time: others wait, and past a bound the response is ` +
      '503 `overloaded`.',
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
    @CurrentReadContext() readContext: ReadContext,
  ): Promise<Representation | OrderView> {
    if (at === undefined) return this.orders.get(actor, id, readContext);
    return this.history.getAt(actor, id, at, readContext);
  }

  @Get(':id/events')
  @Operation({
    allow: 'order.read',
    summary: "List an order's events",
    description:
      'Lists everything that happened to the order, page by page, oldest first. A page ends early ' +
      'if its events exceed 1 MiB together.',
    type: OrderEventPage,
    returns: 'A page of events.',
    headers: ['Link', 'Cache-Control', 'Cache-Status'],
    problems: [problems.validationFailed, problems.notFound],
  })
  async listOrderEvents(
    @CurrentActor() actor: Actor,
    @Param('id', IdPipe) id: string,
    @Query() query: ListEventsQuery,
    @CurrentReadContext() readContext: ReadContext,
    @Req() request: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<SerializedPage> {
    const page = await this.history.listEvents(actor, id, query, readContext);
    if (page.next) void reply.header('Link', nextLink(request.url, page.next));
    return page;
  }

  @Patch(':id')
  @Operation({
    allow: 'order.change',
    summary: 'Change items or note while the order is placed',
    description:
      'Replaces the members that the body contains, and keeps the others. `If-Match` names the ' +
      'version that the change is based on, so that it cannot overwrite another change. An ' +
      `order has at most ${MAX_ORDER_VERSIONS} versions. The last ones are kept for actions: ` +
      `after version ${MAX_CHANGED_VERSION} the response is 409 \`too-many-versions\`.`,
    type: OrderView,
    returns: 'The changed order.',
    headers: ['ETag'],
    accepts: ['If-Match!'],
    hasBody: true,
    problems: [
      problems.forbidden,
      problems.notFound,
      problems.versionMismatch,
      problems.preconditionRequired,
      orderProblems.invalidTransition,
      orderProblems.tooManyVersions,
    ],
  })
  async changeOrder(
    @CurrentActor() actor: Actor,
    @Param('id', IdPipe) id: string,
    @IfMatchHeader() ifMatch: IfMatch,
    @Body() body: ChangeOrder,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<OrderView> {
    const order = await this.orders.change(actor, id, ifMatch, body);
    void reply.header('ETag', entityTagOf(order.version));
    return order;
  }

  @Post(ORDER_ACTIONS.map((action) => `:id/${action}`))
  @HttpCode(200)
  @Operation({
    allow: 'order.act',
    summary: 'Move an order to its next status',
    variants: ACTION_VARIANTS,
    type: OrderView,
    returns: 'The order in its new status.',
    headers: ['ETag', 'Idempotent-Replayed'],
    accepts: ['If-Match', 'Idempotency-Key'],
    hasBody: true,
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
    @Idempotent({ isRequired: false }) idempotentRequest: IdempotentRequest,
    @Body() body: ActOnOrder,
    @Req() request: FastifyRequest,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const action = actionOf(request);
    const response = await this.orders.applyAction(
      actor,
      id,
      action,
      idempotentRequest,
      ifMatch,
      body,
    );
    sendIdempotentResponse(reply, response);
  }
}

/** The last segment of the route, e.g. `pay` of `/v1/orders/:id/pay`. */
const actionOf = ({ routeOptions }: FastifyRequest): OrderAction =>
  routeOptions.url?.split('/').at(-1) as OrderAction;
