/** The routes of users, but for those that touch a password or end sessions: they are auth's (auth/accounts.controller.ts). */
import { Body, Controller, Get, Param, Patch, Put, Query, Req, Res } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { CurrentReading } from '../cache/cache.headers.js';
import { Reading } from '../cache/reading.js';
import type { Representation } from '../cache/representation.js';
import { type Actor, CurrentActor } from '../http/actor.js';
import { Operation } from '../http/openapi.js';
import { nextLink } from '../http/pagination.js';
import { etagOf, IfMatch, IfMatchHeader } from '../http/preconditions.js';
import { problems } from '../http/problem.js';
import { IdPipe } from '../http/validation.js';
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
      'All users, newest first, page by page. With `username`: the one who has it, or an empty list.',
    type: UserPage,
    returns: 'A page of users.',
    headers: ['Link', 'Cache-Control', 'Cache-Status'],
    accepts: ['Cache-Control'],
    problems: [problems.validationFailed, problems.forbidden],
  })
  async listUsers(
    @Query() query: ListUsersQuery,
    @CurrentReading() reading: Reading,
    @Req() request: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<UserPage> {
    const page = await this.users.list(query, reading);
    if (page.next) void reply.header('Link', nextLink(request.url, page.next));
    return page;
  }

  @Get('me')
  @Operation({
    allow: 'user.me',
    summary: 'Read the caller',
    description: 'The user whose token this request carries.',
    type: UserView,
    returns: 'The user.',
    headers: ['ETag', 'Cache-Control', 'Cache-Status'],
    accepts: ['If-None-Match', 'Cache-Control'],
  })
  getMe(@CurrentActor() actor: Actor, @CurrentReading() reading: Reading): Promise<Representation> {
    return this.users.get(actor.userId, reading);
  }

  @Get(':id')
  @Operation({
    allow: 'user.read',
    summary: 'Read a user',
    description:
      'A user by id. A deleted user is not found, and neither is one that this caller may not see.',
    type: UserView,
    returns: 'The user.',
    headers: ['ETag', 'Cache-Control', 'Cache-Status'],
    accepts: ['If-None-Match', 'Cache-Control'],
    problems: [problems.notFound],
  })
  getUser(
    @Param('id', IdPipe) id: string,
    @CurrentReading() reading: Reading,
  ): Promise<Representation> {
    return this.users.get(id, reading);
  }

  @Patch(':id')
  @Operation({
    allow: 'user.change',
    summary: 'Change a username or an email address',
    description:
      'Changes what the body names and leaves the rest. `If-Match` says which version is meant, so that no change of another is lost.',
    type: UserView,
    returns: 'The user, changed.',
    headers: ['ETag'],
    accepts: ['If-Match!'],
    body: true,
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
    void reply.header('ETag', etagOf(user.version));
    return user;
  }

  @Put(':id/roles')
  @Operation({
    allow: 'user.roles',
    summary: "Set a user's roles",
    description:
      "Sets a user's roles. They are in force on that user's next request, on every node.",
    type: UserView,
    returns: 'The user, changed.',
    headers: ['ETag'],
    accepts: ['If-Match'],
    body: true,
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
    void reply.header('ETag', etagOf(user.version));
    return user;
  }
}
