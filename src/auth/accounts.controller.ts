/** The users' routes that concern a password or end sessions. */
import { Body, Controller, Delete, HttpCode, Param, Post, Put, Req, Res } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Actor } from '../platform/access/actor.js';
import { CurrentActor } from '../platform/http/server/current-actor.decorator.js';
import { Operation } from '../platform/http/openapi/operation.decorator.js';
import { IfMatch, IfMatchHeader } from '../platform/http/conditional/if-match.decorator.js';
import { problems } from '../platform/http/problems/problem.js';
import { clientAddressOf } from '../platform/http/server/client-address.js';
import { IdPipe } from '../platform/http/validation/id.pipe.js';
import { idempotencyProblems } from '../platform/idempotency/idempotency.errors.js';
import { sendIdempotentResponse } from '../platform/idempotency/idempotency.service.js';
import {
  Idempotent,
  type IdempotentRequest,
} from '../platform/idempotency/idempotent.decorator.js';
import { UserView } from '../users/users.dto.js';
import { userProblems } from '../users/users.errors.js';
import { ChangePassword, RegisterUser } from './auth.dto.js';
import { authProblems } from './auth.errors.js';
import { AuthService } from './auth.service.js';

@ApiTags('users')
@Controller('v1/users')
export class AccountsController {
  constructor(private readonly auth: AuthService) {}

  @Post()
  @Operation({
    allow: 'anyone',
    summary: 'Register a user',
    description:
      'Creates a user with the role `user`. To call the API as this user, log in next. With an ' +
      '`Idempotency-Key`, a retry with the same body gets the same response again, with ' +
      '`Idempotent-Replayed: true`. A key belongs to the network address of the caller.',
    status: 201,
    type: UserView,
    returns: 'The new user.',
    headers: ['Location', 'ETag', 'Idempotent-Replayed'],
    accepts: ['Idempotency-Key'],
    hasBody: true,
    problems: [
      userProblems.usernameTaken,
      userProblems.emailTaken,
      idempotencyProblems.malformed,
      idempotencyProblems.inFlight,
      idempotencyProblems.reused,
      authProblems.tooManyAttempts,
    ],
  })
  async register(
    @Idempotent({ isRequired: false, secrets: ['password'] }) idempotentRequest: IdempotentRequest,
    @Body() body: RegisterUser,
    @Req() request: FastifyRequest,
    @Res() reply: FastifyReply,
  ): Promise<void> {
    const ip = clientAddressOf(request);
    const response = await this.auth.register(idempotentRequest, ip, body);
    request.account = response.subjectId;
    sendIdempotentResponse(reply, response);
  }

  @Put(':id/password')
  @HttpCode(204)
  @Operation({
    allow: 'user.password',
    summary: 'Change your own password',
    description:
      'Changes the password of the caller. The session of this request stays open, every other ' +
      'session of the caller ends.',
    status: 204,
    returns: 'The password was changed.',
    hasBody: true,
    problems: [
      problems.forbidden,
      problems.notFound,
      authProblems.wrongPassword,
      authProblems.tooManyAttempts,
    ],
  })
  async changePassword(
    @Param('id', IdPipe) id: string,
    @Body() body: ChangePassword,
    @CurrentActor() actor: Actor,
  ): Promise<void> {
    await this.auth.changePassword(actor, id, body);
  }

  @Delete(':id')
  @HttpCode(204)
  @Operation({
    allow: 'user.delete',
    summary: 'Delete a user',
    description:
      "Deletes a user and ends the user's sessions. Orders stay. The username and the email " +
      'address become free.',
    status: 204,
    returns: 'The user was deleted.',
    accepts: ['If-Match'],
    problems: [problems.notFound, problems.versionMismatch],
  })
  async deleteUser(
    @Param('id', IdPipe) id: string,
    @IfMatchHeader() ifMatch: IfMatch,
    @CurrentActor() actor: Actor,
  ): Promise<void> {
    await this.auth.deleteUser(actor, id, ifMatch);
  }
}
