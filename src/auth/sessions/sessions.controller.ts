/** Logging in and out. */
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
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Config } from '../config.js';
import { CurrentReading } from '../cache/cache.headers.js';
import { Reading } from '../cache/reading.js';
import { type Actor, CurrentActor } from '../http/actor.js';
import { addressOf } from '../http/client-address.js';
import { OneOf } from '../http/fields.js';
import { Operation } from '../http/openapi.js';
import { problems } from '../http/problem.js';
import { IdPipe } from '../http/validation.js';
import { LogIn, NewSessionView, SessionList, sessionView, SessionView } from './auth.dto.js';
import { authProblems } from './auth.errors.js';
import { AuthService } from './auth.service.js';
import { SessionsService } from './sessions.service.js';

class EndSessionsQuery {
  @OneOf(['current'], {
    optional: true,
    description: '"current": the session of this request stays.',
  })
  keep?: 'current';
}

/** A header is anyone's text: kept short and without what a log or a terminal would act on. */
const userAgentOf = ({ headers }: FastifyRequest): string | null =>
  headers['user-agent']?.replace(/[^\x20-\x7e]/g, '?').slice(0, 256) ?? null;

@ApiTags('sessions')
@Controller('v1/sessions')
export class SessionsController {
  constructor(
    private readonly auth: AuthService,
    private readonly sessions: SessionsService,
    private readonly config: Config,
  ) {}

  @Post()
  @Operation({
    allow: 'anyone',
    summary: 'Log in',
    description:
      'Makes a session. Its `token` is shown in this answer and never again. A wrong password and an unknown user get one and the same answer. Wrong passwords are counted; too many make further logins wait, but none from a device that the user has logged in from before. A user has at most 100 sessions: the one used longest ago gives way.',
    status: 201,
    type: NewSessionView,
    returns: 'The new session, with its token.',
    headers: ['Location', 'Cache-Control'],
    body: true,
    problems: [authProblems.invalidCredentials, authProblems.tooManyAttempts],
  })
  async logIn(
    @Body() body: LogIn,
    @Req() request: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<NewSessionView> {
    const { session, token } = await this.auth.logIn(body, {
      userAgent: userAgentOf(request),
      ip: addressOf(request),
    });
    request.account = session.userId;
    void reply.header('Location', `/v1/sessions/${session.id}`).header('Cache-Control', 'no-store');
    return { ...sessionView(session, this.config.sessionIdleSeconds, session.id), token };
  }

  @Get()
  @Operation({
    allow: 'session.own',
    summary: "List the caller's live sessions",
    description: 'Where the caller is logged in: every session that has not ended.',
    type: SessionList,
    returns: 'The live sessions.',
    headers: ['Cache-Control'],
  })
  async listSessions(@CurrentActor() actor: Actor): Promise<SessionList> {
    const rows = await this.sessions.list(actor.userId);
    return {
      data: rows.map((row) => sessionView(row, this.config.sessionIdleSeconds, actor.sessionId)),
      next: null,
    };
  }

  @Get('current')
  @Operation({
    allow: 'session.own',
    summary: 'Read the session of this request',
    description: 'The session whose token this request carries.',
    type: SessionView,
    returns: 'The session.',
    headers: ['Cache-Control', 'Cache-Status'],
    accepts: ['Cache-Control'],
  })
  async getCurrentSession(
    @CurrentActor() actor: Actor,
    @CurrentReading() reading: Reading,
  ): Promise<SessionView> {
    return sessionView(
      await this.sessions.current(actor, reading),
      this.config.sessionIdleSeconds,
      actor.sessionId,
    );
  }

  @Delete('current')
  @HttpCode(204)
  @Operation({
    allow: 'session.own',
    summary: 'Log out',
    description:
      'Ends the session of this request. From this answer on, no node accepts its token.',
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
    summary: 'End one of the own sessions',
    description:
      'Ends a session of the caller, here or elsewhere. From this answer on, no node accepts its token.',
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
    summary: 'End all own sessions, or all others',
    description:
      'Ends every session of the caller, or with `keep=current` every one but that of this request. From this answer on, no node accepts their tokens.',
    status: 204,
    returns: 'The sessions have ended.',
    problems: [problems.validationFailed],
  })
  async endSessions(
    @Query() { keep }: EndSessionsQuery,
    @CurrentActor() actor: Actor,
  ): Promise<void> {
    await this.sessions.endOwn(actor, keep === 'current');
  }
}
