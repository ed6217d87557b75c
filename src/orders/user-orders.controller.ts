/** The route of one user's orders: /v1/users/{id}/orders. */
import { Controller, Get, Param, Query, Req, Res } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Actor } from '../platform/access/actor.js';
import { ReadContext } from '../platform/cache/read/read-context.js';
import { CurrentReadContext } from '../platform/http/conditional/read-context.decorator.js';
import { Operation } from '../platform/http/openapi/operation.decorator.js';
import { nextLink, type SerializedPage } from '../platform/http/pagination.js';
import { problems } from '../platform/http/problems/problem.js';
import { CurrentActor } from '../platform/http/server/current-actor.decorator.js';
import { IdPipe } from '../platform/http/validation/id.pipe.js';
import { OrderPage, UserOrdersQuery } from './orders.dto.js';
import { OrdersService } from './orders.service.js';

@ApiTags('orders')
@Controller('v1/users/:id/orders')
export class UserOrdersController {
  constructor(private readonly orders: OrdersService) {}

  @Get()
  @Operation({
    allow: 'user.orders',
    summary: "List one user's orders",
    description:
      "Lists a user's orders page by page, newest first. The orders of a deleted user remain.",
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
    @CurrentReadContext() readContext: ReadContext,
    @Req() request: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<SerializedPage> {
    const page = await this.orders.listOfUser(actor, id, query, readContext);
    if (page.next) void reply.header('Link', nextLink(request.url, page.next));
    return page;
  }
}
