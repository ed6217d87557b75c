/** The routes of sessions: log in, list sessions, log out. */
import {
  Body,
  Controller,
  Delete,
  Get,
  HttpCode,
  Param,
  Post,
  Query,
  Req,
  Res,
} from '@nestjs/common';
import { RouteSettings } from '../../platform/http/server/route-settings.decorator.js';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Config } from '../../config.js';
import { CurrentReadContext } from '../../platform/http/conditional/read-context.decorator.js';
import { ReadContext } from '../../platform/cache/read/read-context.js';
import type { Actor } from '../../platform/access/actor.js';
import { CurrentActor } from '../../platform/http/server/current-actor.decorator.js';
import { clientAddressOf } from '../../platform/http/server/client-address.js';
import { OneOf } from '../../platform/http/validation/fields.js';
import { Operation } from '../../platform/http/openapi/operation.decorator.js';
import { problems } from '../../platform/http/problems/problem.js';
import { IdPipe } from '../../platform/http/validation/id.pipe.js';
import { LogIn, NewSessionView, SessionList, sessionView, SessionView } from '../auth.dto.js';
import { authProblems } from '../auth.errors.js';
import { AuthService } from '../auth.service.js';
import { deviceCookieOf, deviceTokenOf } from '../throttling/device-tokens.service.js';
import type { Session } from './session.entity.js';
import { SessionsService } from './sessions.service.js';

class EndSessionsQuery {
  @OneOf(['current'], {
    optional: true,
    description: '`current`: keeps the session of the request.',
  })
  keep?: 'current';
}

const MAX_USER_AGENT_LENGTH = 256;

/** Clients choose this text: it is cut, and characters that terminals interpret are replaced. */
const userAgentOf = ({ headers }: FastifyRequest): string | null =>
  headers['user-agent']?.replace(/[^\x20-\x7e]/g, '?').slice(0, MAX_USER_AGENT_LENGTH) ?? null;

@ApiTags('sessions')
@Controller('v1/sessions')
export class SessionsController {
  constructor(
    private readonly auth: AuthService,
    private readonly sessions: SessionsService,
    private readonly config: Config,
  ) {}

  @Post()
  @RouteSettings({ hasSecret: true })
  @Operation({
    allow: 'anyone',
    summary: 'Log in',
    description:
      'Starts a session. Its `token` is shown only in this response. A wrong password and an ' +
      'unknown user get the same response. After too many wrong passwords, further logins are ' +
      'rejected for some time, except from devices that the user has logged in from before. A ' +
      'user has at most 100 sessions: a new one ends the least recently used one. The cookie marks ' +
      'the device and admits nobody. Clients need not keep it.',
    status: 201,
    type: NewSessionView,
    returns: 'The new session and its token.',
    headers: ['Location', 'Cache-Control', 'Set-Cookie'],
    hasBody: true,
    problems: [authProblems.invalidCredentials, authProblems.tooManyAttempts],
  })
  async logIn(
    @Body() body: LogIn,
    @Req() request: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<NewSessionView> {
    const { session, token, deviceToken } = await this.auth.logIn(body, {
      userAgent: userAgentOf(request),
      ip: clientAddressOf(request),
      deviceToken: deviceTokenOf(request),
    });
    request.account = session.userId;
    void reply
      .header('Location', `/v1/sessions/${session.id}`)
      .header('Cache-Control', 'no-store')
      .header('Set-Cookie', deviceCookieOf(deviceToken));
    return { ...this.viewFor(session.id, session), token };
  }

  @Get()
  @Operation({
    allow: 'session.own',
    summary: 'List your own sessions',
    description: 'Returns every session of the caller that has not ended.',
    type: SessionList,
    returns: 'The sessions.',
    headers: ['Cache-Control'],
  })
  async listSessions(@CurrentActor() actor: Actor): Promise<SessionList> {
    const sessions = await this.sessions.list(actor.userId);
    return {
      data: sessions.map((session) => this.viewFor(actor.sessionId, session)),
      next: null,
    };
  }

  @Get('current')
  @Operation({
    allow: 'session.own',
    summary: 'Read the session of the request',
    description: 'Returns the session that the token belongs to.',
    type: SessionView,
    returns: 'The session.',
    headers: ['Cache-Control', 'Cache-Status'],
    accepts: ['Cache-Control'],
  })
  async getCurrentSession(
    @CurrentActor() actor: Actor,
    @CurrentReadContext() readContext: ReadContext,
  ): Promise<SessionView> {
    return this.viewFor(actor.sessionId, await this.sessions.getCurrent(actor, readContext));
  }

  @Get(':id')
  @Operation({
    allow: 'session.own',
    summary: 'Read one of your own sessions',
    description: 'Returns a session of the caller by id: 404 for one that has ended.',
    type: SessionView,
    returns: 'The session.',
    headers: ['Cache-Control', 'Cache-Status'],
    accepts: ['Cache-Control'],
    problems: [problems.notFound],
  })
  async getSession(
    @Param('id', IdPipe) id: string,
    @CurrentActor() actor: Actor,
    @CurrentReadContext() readContext: ReadContext,
  ): Promise<SessionView> {
    return this.viewFor(actor.sessionId, await this.sessions.get(actor, id, readContext));
  }

  @Delete('current')
  @HttpCode(204)
  @Operation({
    allow: 'session.own',
    summary: 'Log out',
    description: 'Ends the session of the request. After the response, no node accepts its token.',
    status: 204,
    returns: 'The session has ended.',
  })
  async logOut(@CurrentActor() actor: Actor): Promise<void> {
    await this.sessions.end(actor, actor.sessionId);
  }

  @Delete(':id')
  @HttpCode(204)
  @Operation({
    allow: 'session.own',
    summary: 'End one of your own sessions',
    description:
      'Ends a session of the caller on any device. After the response, no node accepts its token.',
    status: 204,
    returns: 'The session has ended.',
    problems: [problems.notFound],
  })
  async endSession(@Param('id', IdPipe) id: string, @CurrentActor() actor: Actor): Promise<void> {
    await this.sessions.end(actor, id);
  }

  @Delete()
  @HttpCode(204)
  @Operation({
    allow: 'session.own',
    summary: 'End all of your own sessions',
    description:
      'Ends every session of the caller. With `keep=current`, the session of the request stays ' +
      'open. After the response, no node accepts the tokens of the ended sessions.',
    status: 204,
    returns: 'The sessions have ended.',
    problems: [problems.validationFailed],
  })
  async endSessions(
    @Query() { keep }: EndSessionsQuery,
    @CurrentActor() actor: Actor,
  ): Promise<void> {
    await this.sessions.endAll(actor, keep === 'current');
  }

  private viewFor(currentSessionId: string, session: Session): SessionView {
    return sessionView(session, this.config.sessionIdleSeconds, currentSessionId);
  }
}
