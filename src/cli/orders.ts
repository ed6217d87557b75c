/**
 * `holdfast orders`: what an operator does about orders that no caller of the API can help. It runs
 * the service's own code without its server: the same rules, one transaction, an event and a
 * message (orders/order-operations.service.ts).
 */
import { createApp } from '../app.js';
import { type Config, loadConfig } from '../config.js';
import { OrderOperations } from '../orders/order-operations.service.js';
import { REASON_LENGTH } from '../orders/orders.dto.js';
import { Problem } from '../platform/http/problems/problem.js';
import { findTextFaults } from '../platform/http/validation/faults.js';
import { parseArguments } from './arguments.js';
import { CommandError } from './command.js';
import { withDatabase } from './database.js';

export const USAGE = `holdfast orders refund <id> --reason <text>
  refund <id>      refund a shipped order that was lost on its way. An order that is refunded
                   already stays as it is, so the command may be repeated
  --reason <text>  why, up to 500 characters in one line; the order's event keeps it`;

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const findReasonFaults = findTextFaults(REASON_LENGTH);

export async function run(args: string[]): Promise<number> {
  const { words, options } = parseArguments(args, {
    usage: USAGE,
    options: ['reason'],
    maxWords: 2,
  });
  const [verb = '', id = ''] = words;
  const { reason = '' } = options;
  if (verb !== 'refund') throw new CommandError(`the first word must be refund, not "${verb}"`, 2);
  if (!UUID.test(id)) throw new CommandError(`refund needs the id of an order, not "${id}"`, 2);
  const [fault] = findReasonFaults(reason, '--reason');
  if (fault) throw new CommandError(fault.detail, 2);
  const config = loadConfig();
  console.log(
    await withDatabase(config, (url) => refund({ ...config, databaseUrl: url }, id, reason)),
  );
  return 0;
}

/**
 * @returns the line that reports what was done
 * @throws CommandError when the order does not exist, or its status does not allow it
 */
async function refund(config: Config, id: string, reason: string): Promise<string> {
  const app = await createApp(settingsOf(config));
  try {
    const { order, isNew } = await app.get(OrderOperations).refund(id.toLowerCase(), reason);
    if (!isNew) return `The order ${order.id} is refunded already: nothing was changed`;
    const { total, currency } = order;
    return `Refunded the order ${order.id}: ${total} minor units of ${currency} are due`;
  } catch (error) {
    throw error instanceof Problem ? new CommandError(`${id}: ${error.message}`) : error;
  } finally {
    await app.close();
  }
}

/**
 * The command answers no request and uses no cache: its write is invalidated through the database.
 * It never migrates.
 */
const settingsOf = (config: Config): Config => ({
  ...config,
  migrations: 'manual',
  redisUrl: undefined,
  cacheDegradedWrites: 'wait',
  rabbitmqUrl: undefined,
  databaseReplicaUrls: [],
  admin: undefined,
  metrics: undefined,
  otlpEndpoint: undefined,
  tls: undefined,
  logLevel: 'error',
});
