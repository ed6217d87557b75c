/**
 * Turns everything that a route throws into a problem response, and logs what operators must know.
 */
import { type ArgumentsHost, Catch, type ExceptionFilter, Logger } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { type Problem, problems } from './problem.js';
import { sendProblem } from './problem-response.js';
import { isError, toProblem } from './to-problem.js';

@Catch()
export class ProblemFilter implements ExceptionFilter {
  private readonly logger = new Logger('Http');

  catch(error: unknown, host: ArgumentsHost): void {
    const http = host.switchToHttp();
    const request = http.getRequest<FastifyRequest>();
    const reply = http.getResponse<FastifyReply>();
    const problem = toProblem(error);
    this.log(problem, request);
    if (!reply.sent) sendProblem(problem, request, reply);
  }

  /** Defects as errors with a stack, unavailable parts as warnings. Clients' errors: not at all. */
  private log(problem: Problem, request: FastifyRequest): void {
    const { code, status } = problem.problemType;
    const cause = problem.details.cause ?? problem;
    // 400, but a defect of the service: validation let a value pass that the database rejects.
    const isMissingRule = code === problems.valueRefused.code;
    if (status === 500 || isMissingRule) {
      const [path] = request.url.split('?');
      this.logger.error(`${request.id} ${request.method} ${path}: ${stackOf(cause)}`);
    } else if (status === 503) {
      this.logger.warn(`${request.id} ${code}: ${messageOf(cause)}`);
    }
  }
}

const messageOf = (cause: unknown): string => (isError(cause) ? cause.message : String(cause));
const stackOf = (cause: unknown): string => (isError(cause) && cause.stack) || messageOf(cause);
