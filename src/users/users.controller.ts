/**
 * The users' routes that concern profiles and roles. Routes that concern a password or end sessions
 * are in src/auth/accounts.controller.ts.
 */
import { Body, Controller, Get, Header, Param, Patch, Put, Query, Req, Res } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { NO_STORE } from '../platform/http/conditional/cache-headers.js';
import { CurrentReadContext } from '../platform/http/conditional/read-context.decorator.js';
import { ReadContext } from '../platform/cache/read/read-context.js';
import type { Representation } from '../platform/http/conditional/representation.js';
import type { Actor } from '../platform/access/actor.js';
import { CurrentActor } from '../platform/http/server/current-actor.decorator.js';
import { Operation } from '../platform/http/openapi/operation.decorator.js';
import { nextLink } from '../platform/http/pagination.js';
import { entityTagOf } from '../platform/http/conditional/entity-tag.js';
import { IfMatch, IfMatchHeader } from '../platform/http/conditional/if-match.decorator.js';
import { problems } from '../platform/http/problems/problem.js';
import { IdPipe } from '../platform/http/validation/id.pipe.js';
import { ChangeRoles, ChangeUser, ListUsersQuery, UserPage, UserView } from './users.dto.js';
import { userProblems } from './users.errors.js';
import { UsersService } from './users.service.js';

@ApiTags('users')
@Controller('v1/users')
export class UsersController {
  constructor(private readonly users: UsersService) {}

  @Get()
  @Operation({
    allow: 'user.list',
    summary: 'List users',
    description:
      'Returns users page by page, newest first. With `username`, returns that user only.',
    type: UserPage,
    returns: 'A page of users.',
    headers: ['Link', 'Cache-Control', 'Cache-Status'],
    accepts: ['Cache-Control'],
    problems: [problems.validationFailed, problems.forbidden],
  })
  async listUsers(
    @Query() query: ListUsersQuery,
    @CurrentReadContext() readContext: ReadContext,
    @Req() request: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<UserPage> {
    const page = await this.users.list(query, readContext);
    if (page.next) void reply.header('Link', nextLink(request.url, page.next));
    return page;
  }

  @Get('me')
  @Header('Cache-Control', NO_STORE)
  @Operation({
    allow: 'user.me',
    summary: 'Read your own user',
    description:
      'Returns the user that the token belongs to. The ETag is for `If-Match` of a change. The ' +
      'response is never 304: the same URL has another user for each caller.',
    type: UserView,
    returns: 'The user.',
    headers: ['ETag', 'Cache-Control', 'Cache-Status'],
    accepts: ['Cache-Control'],
  })
  getMe(
    @CurrentActor() actor: Actor,
    @CurrentReadContext() readContext: ReadContext,
  ): Promise<Representation> {
    return this.users.get(actor.userId, readContext);
  }

  @Get(':id')
  @Operation({
    allow: 'user.read',
    summary: 'Read a user',
    description:
      'Returns a user by id: 404 for deleted users and for users that the caller may not see.',
    type: UserView,
    returns: 'The user.',
    headers: ['ETag', 'Cache-Control', 'Cache-Status'],
    accepts: ['If-None-Match', 'Cache-Control'],
    problems: [problems.notFound],
  })
  getUser(
    @Param('id', IdPipe) id: string,
    @CurrentReadContext() readContext: ReadContext,
  ): Promise<Representation> {
    return this.users.get(id, readContext);
  }

  @Patch(':id')
  @Operation({
    allow: 'user.change',
    summary: 'Change a username or an email address',
    description:
      'Changes the properties in the body. `If-Match` names the version that the change ' +
      'replaces, so that no concurrent change is lost.',
    type: UserView,
    returns: 'The changed user.',
    headers: ['ETag'],
    accepts: ['If-Match!'],
    hasBody: true,
    problems: [
      problems.notFound,
      problems.versionMismatch,
      problems.preconditionRequired,
      userProblems.usernameTaken,
      userProblems.emailTaken,
    ],
  })
  async changeUser(
    @Param('id', IdPipe) id: string,
    @IfMatchHeader() ifMatch: IfMatch,
    @Body() body: ChangeUser,
    @CurrentActor() actor: Actor,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<UserView> {
    const user = await this.users.change(actor, id, ifMatch, body);
    void reply.header('ETag', entityTagOf(user.version));
    return user;
  }

  @Put(':id/roles')
  @Operation({
    allow: 'user.roles',
    summary: "Set a user's roles",
    description: "Replaces a user's roles. They apply to that user's next request, on every node.",
    type: UserView,
    returns: 'The changed user.',
    headers: ['ETag'],
    accepts: ['If-Match'],
    hasBody: true,
    problems: [problems.forbidden, problems.notFound, problems.versionMismatch],
  })
  async setRoles(
    @Param('id', IdPipe) id: string,
    @IfMatchHeader() ifMatch: IfMatch,
    @Body() { roles }: ChangeRoles,
    @CurrentActor() actor: Actor,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<UserView> {
    const user = await this.users.setRoles(actor, id, ifMatch, roles);
    void reply.header('ETag', entityTagOf(user.version));
    return user;
  }
}
