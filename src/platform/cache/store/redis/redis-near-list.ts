/**
 * The list of nodes with near caches, as a hash in Redis (redis-scripts.ts), and its texts by
 * publish/subscribe, in channels that have the name of the hash. The server that serves the hash
 * also delivers the texts; in a Cluster every server would.
 */
import { randomUUID } from 'node:crypto';
import type {
  ListedNode,
  NearListener,
  NearListenerEvents,
  NearListState,
  NearRenewal,
} from '../../near/near-list.js';
import { CacheUnavailableError } from '../cache-store.js';
import { replyWithin } from './redis-connection.js';
import type { RedisNode, RedisScriptName } from './redis-node.js';

export interface RedisNearListOptions {
  /** Milliseconds. */
  readonly commandTimeoutMs: number;
  /** Sends to the server of a key, again if it has another incarnation now. */
  readonly send: <Reply>(
    key: string,
    send: (node: RedisNode, localKey: string) => Promise<Reply>,
  ) => Promise<Reply>;
}

const NODE_FIELD = 'n:';
/** A new connection may take as long as so many commands. */
const LISTEN_TIMEOUT_COMMANDS = 5;

/** A {@link NearList}. */
export class RedisNearList {
  constructor(private readonly options: RedisNearListOptions) {}

  async renew(
    name: string,
    { node, renewal, wholeList = '' }: NearRenewal,
  ): Promise<NearListState> {
    const args = [node, renewal, wholeList];
    return stateOf(await this.run<[string, string]>('nearRenew', name, args));
  }

  async revoke(
    name: string,
    message: string,
  ): Promise<NearListState & { nodes: readonly ListedNode[] }> {
    const reply = await this.run<[string, string, string[]]>('nearRevoke', name, [message]);
    return { ...stateOf(reply), nodes: nodesOf(reply[2]) };
  }

  async answer(name: string, node: string, text: string): Promise<void> {
    await this.send(name, ({ connection, prefix }, localKey) =>
      connection.sendCommand(['PUBLISH', channelOf(`${prefix}${localKey}`, node), text]),
    );
  }

  async markWhole(name: string, id: string): Promise<void> {
    await this.run('nearWhole', name, [id]);
  }

  async remove(name: string, { node, renewal }: ListedNode): Promise<void> {
    await this.run('nearRemove', name, [node, renewal]);
  }

  listen(name: string, node: string, events: NearListenerEvents): Promise<NearListener> {
    return this.options.send(name, (server, localKey) =>
      listenOn(server, `${server.prefix}${localKey}`, node, events, this.options.commandTimeoutMs),
    );
  }

  private run<Reply>(script: RedisScriptName, name: string, args: string[]): Promise<Reply> {
    return this.send(name, (node, localKey) =>
      node.runScript<Reply>(script, localKey, [randomUUID(), ...args]),
    );
  }

  private send<Reply>(
    name: string,
    send: (node: RedisNode, localKey: string) => Promise<Reply>,
  ): Promise<Reply> {
    return replyWithin(this.options.commandTimeoutMs, this.options.send(name, send));
  }
}

/** A connection that is never replaced: what was sent in between would be missing. */
async function listenOn(
  server: RedisNode,
  key: string,
  node: string,
  { onRevocation, onAnswer, onLost }: NearListenerEvents,
  timeoutMs: number,
): Promise<NearListener> {
  const connection = server.createListenConnection();
  let isOpen = true;
  const close = (): void => {
    if (!isOpen) return;
    isOpen = false;
    connection.destroy();
  };
  const lose = (): void => {
    if (!isOpen) return;
    close();
    onLost();
  };
  connection.on('error', lose);
  connection.on('end', lose);
  try {
    await replyWithin(LISTEN_TIMEOUT_COMMANDS * timeoutMs, connection.connect());
    await replyWithin(timeoutMs, connection.subscribe(key, onRevocation));
    await replyWithin(timeoutMs, connection.subscribe(channelOf(key, node), onAnswer));
  } catch (error) {
    close();
    throw error;
  }
  if (!isOpen) throw new CacheUnavailableError('The connection was lost while it was opened');
  return { close };
}

const channelOf = (key: string, node: string): string => `${key}:${node}`;

const stateOf = ([state, count]: readonly unknown[]): NearListState => ({
  id: String(state).slice(1),
  isWhole: String(state).startsWith('w'),
  count: Number(count),
});

/** @param fields of the hash: each name, then its value */
function nodesOf(fields: readonly string[]): ListedNode[] {
  const nodes: ListedNode[] = [];
  for (let index = 0; index < fields.length; index += 2) {
    const name = fields[index] as string;
    if (!name.startsWith(NODE_FIELD)) continue;
    nodes.push({ node: name.slice(NODE_FIELD.length), renewal: fields[index + 1] as string });
  }
  return nodes;
}
