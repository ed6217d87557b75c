/** Tests that need a broker are skipped where RabbitMQ is not installed. */
import { describe } from '@jest/globals';
import { rabbitmqProgram } from './programs.js';

/** As `describe`. When it skips, the reporter shows the reason, which is in the name. */
export function describeWithRabbitmq(name: string, tests: () => void): void {
  if (rabbitmqProgram()) describe(name, tests);
  else describe.skip(`${name} (RabbitMQ is not installed)`, tests);
}
