/** The users' routes that touch a password or end sessions. */
import { Body, Controller, Delete, HttpCode, Param, Post, Put, Req, Res } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { type Actor, CurrentActor } from '../http/actor.js';
import { Operation } from '../http/openapi.js';
import { etagOf, IfMatch, IfMatchHeader } from '../http/preconditions.js';
import { problems } from '../http/problem.js';
import { IdPipe } from '../http/validation.js';
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
    summary: 'Register',
    description: 'Makes a user with the role `user`. Log in next.',
    status: 201,
    type: UserView,
    returns: 'The new user.',
    headers: ['Location', 'ETag'],
    body: true,
    problems: [userProblems.usernameTaken, userProblems.emailTaken],
  })
  async register(
    @Body() body: RegisterUser,
    @Req() request: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<UserView> {
    const user = await this.auth.register(body);
    request.account = user.id;
    void reply.header('Location', `/v1/users/${user.id}`).header('ETag', etagOf(user.version));
    return user;
  }

  @Put(':id/password')
  @HttpCode(204)
  @Operation({
    allow: 'user.password',
    summary: 'Change the own password',
    description:
      'Changes the own password. Every other session of the user ends; the one of this request stays.',
    status: 204,
    returns: 'The password is changed.',
    body: true,
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
      "Deletes a user. The user's sessions end, the orders stay, the username may be taken again.",
    status: 204,
    returns: 'The user is deleted.',
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
