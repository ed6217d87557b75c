/**
 * Provides what every HTTP route uses: problem responses, input validation, the rate limit and the
 * bounds. Global, because guards and controllers of every module need them.
 */
import { Global, Module } from '@nestjs/common';
import { APP_FILTER, APP_PIPE } from '@nestjs/core';
import { OverloadProtection } from './bounds/overload-protection.service.js';
import { Refusals } from './bounds/refusals.js';
import { HomeController } from './home.controller.js';
import { ProblemFilter } from './problems/problem.filter.js';
import { ProblemsController } from './problems/problems.controller.js';
import { RateLimit } from './rate-limit/rate-limit.service.js';
import { StrictValidationPipe } from './validation/validation.pipe.js';

@Global()
@Module({
  controllers: [HomeController, ProblemsController],
  providers: [
    OverloadProtection,
    RateLimit,
    Refusals,
    { provide: APP_FILTER, useClass: ProblemFilter },
    { provide: APP_PIPE, useClass: StrictValidationPipe },
  ],
  exports: [OverloadProtection, RateLimit],
})
export class HttpModule {}
