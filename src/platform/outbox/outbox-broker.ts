/**
 * The connection to RabbitMQ, with one confirm channel (https://www.rabbitmq.com/docs/confirms).
 * Invariant: {@link OutboxBroker.publish} resolves only after the broker has taken responsibility
 * for the message. Its errors distinguish a rejected event from an unavailable broker. Every wait
 * has a deadline; while RabbitMQ blocks publishers, missed heartbeats end the wait.
 */
import { type ChannelModel, connect, type ConfirmChannel, type Options } from 'amqplib';
import { withDeadline } from '../timing/deadline.js';
import { CLOUD_EVENT_JSON, cloudEventOf, type StoredEvent } from './cloud-event.js';

/** Durable, of type topic; the routing key is the event's type. */
export const EXCHANGE = 'holdfast.events';
/** Two missed heartbeats end the connection to a broker that hangs; TCP alone takes minutes. */
const HEARTBEAT_SECONDS = 5;
const CONNECT_TIMEOUT_MS = 2_000;
const CONFIRM_TIMEOUT_MS = 5_000;
const CONFIRM_CHECK_INTERVAL_MS = 250;
const CLOSE_TIMEOUT_MS = 500;
/**
 * Messages that are published one at a time after the broker closed the channel because of one of
 * several unconfirmed messages. The next time it does, the message at fault is known.
 */
const SERIAL_MESSAGES = 2_000;
/** Reply codes of AMQP 0-9-1, section 1.2 (Reply Codes). */
const ACCESS_REFUSED = 403;
const PRECONDITION_FAILED = 406;

/** The broker, or this process, cannot accept the event itself. Other events are not affected. */
export class EventRejectedError extends Error {
  override readonly name = 'EventRejectedError';
  /** Whether every retry fails until somebody changes the event or the broker. */
  readonly isPermanent: boolean;

  constructor(message: string, { isPermanent }: { readonly isPermanent: boolean }) {
    super(message);
    this.isPermanent = isPermanent;
  }
}

/** The broker neither confirmed nor rejected the event: it may have arrived. */
export class BrokerUnavailableError extends Error {
  override readonly name = 'BrokerUnavailableError';
}

/** `off`: no broker is configured. `blocked`: the broker takes no messages at the moment. */
export type BrokerState = 'off' | 'connected' | 'blocked' | 'disconnected';

/** A message that the broker has neither confirmed nor rejected. */
interface UnconfirmedMessage {
  readonly type: string;
  /** As performance.now(). */
  sentAt: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export class OutboxBroker {
  private connection: ChannelModel | undefined;
  private channel: ConfirmChannel | undefined;
  private isBlocked = false;
  /** By event id. */
  private readonly unconfirmed = new Map<string, UnconfirmedMessage>();
  /** Ids of events that no queue is bound for; their confirms follow. */
  private readonly returnedIds = new Set<string>();
  private confirmCheck: NodeJS.Timeout | undefined;
  private serialMessagesLeft = 0;
  private lastSerialMessage: Promise<void> = Promise.resolve();

  /** @param onUnroutable called for an event that no queue is bound for; it counts as delivered */
  constructor(
    private readonly url: string,
    private readonly onUnroutable: (type: string) => void,
  ) {}

  get state(): BrokerState {
    if (!this.channel) return 'disconnected';
    return this.isBlocked ? 'blocked' : 'connected';
  }

  /**
   * Connects and declares the exchange; does nothing when connected.
   * @throws BrokerUnavailableError
   */
  async open(): Promise<void> {
    if (this.channel) return;
    let connection: ChannelModel | undefined;
    try {
      connection = await this.connect();
      const channel = await this.openChannel(connection);
      this.connection = connection;
      this.channel = channel;
    } catch (error) {
      if (connection) await closeOrCut(connection);
      throw new BrokerUnavailableError(`RabbitMQ: ${messageOf(error)}`, { cause: error });
    }
    this.confirmCheck = setInterval(() => this.checkConfirms(), CONFIRM_CHECK_INTERVAL_MS).unref();
  }

  /** Closes the connection. Unconfirmed messages fail with BrokerUnavailableError. */
  async close(reason = 'the connection was closed'): Promise<void> {
    const { connection } = this;
    this.disconnect(reason);
    if (connection) await closeOrCut(connection);
  }

  /**
   * Resolves when the broker has confirmed the event.
   * @throws EventRejectedError, BrokerUnavailableError
   */
  publish(event: StoredEvent): Promise<void> {
    if (this.serialMessagesLeft === 0) return this.send(event);
    this.serialMessagesLeft--;
    const confirmed = this.lastSerialMessage.then(() => this.send(event));
    this.lastSerialMessage = confirmed.catch(() => undefined);
    return confirmed;
  }

  private async connect(): Promise<ChannelModel> {
    const address = new URL(this.url);
    if (!address.searchParams.has('heartbeat')) {
      address.searchParams.set('heartbeat', String(HEARTBEAT_SECONDS));
    }
    const connection = await connect(address.href, {
      timeout: CONNECT_TIMEOUT_MS,
      noDelay: true,
      clientProperties: { connection_name: `holdfast ${process.pid}` },
    });
    // An 'error' event without a listener would end the process; 'close' follows it.
    connection.on('error', () => undefined);
    connection.on('close', (error?: Error) => {
      if (this.connection !== connection) return;
      const cause = error ? `: ${error.message}` : '';
      this.disconnect(`the connection has closed${cause}`);
    });
    connection.on('blocked', () => {
      this.isBlocked = true;
    });
    connection.on('unblocked', () => this.unblock());
    return connection;
  }

  private async openChannel(connection: ChannelModel): Promise<ConfirmChannel> {
    const opening = connection.createConfirmChannel();
    const channel = await withDeadline(CONNECT_TIMEOUT_MS, 'Opening the channel', opening);
    channel.on('return', ({ properties }) => {
      this.returnedIds.add(String(properties.messageId));
    });
    channel.on('error', (error: ChannelError) => {
      if (this.channel === channel) this.onChannelError(connection, error);
    });
    channel.on('close', () => {
      if (this.channel === channel) this.disconnect('the channel has closed');
    });
    const declaring = channel.assertExchange(EXCHANGE, 'topic', { durable: true });
    await withDeadline(CONNECT_TIMEOUT_MS, 'Declaring the exchange', declaring);
    return channel;
  }

  private send(event: StoredEvent): Promise<void> {
    const { channel } = this;
    const { id, type } = event;
    if (!channel) return Promise.reject(new BrokerUnavailableError('the channel has closed'));
    return new Promise((resolve, reject) => {
      this.unconfirmed.set(id, { type, sentAt: performance.now(), resolve, reject });
      try {
        const { content, properties } = messageFor(event);
        channel.publish(EXCHANGE, type, content, properties, (nack) => this.onConfirm(id, nack));
      } catch (error) {
        this.unconfirmed.delete(id);
        const isClosed =
          this.channel !== channel || (error as Error).name === 'IllegalOperationError';
        reject(isClosed ? new BrokerUnavailableError(messageOf(error)) : unsendable(error));
      }
    });
  }

  /** @param nack null for basic.ack; an error for basic.nack and for a channel that closed */
  private onConfirm(id: string, nack: Error | null): void {
    const isUnroutable = this.returnedIds.delete(id);
    const message = this.unconfirmed.get(id);
    // When the channel closes, `disconnect` rejects the message: it knows the reason.
    const hasChannelClosed = nack?.message === 'channel closed';
    if (!message || hasChannelClosed) return;
    this.unconfirmed.delete(id);
    if (nack) {
      message.reject(new EventRejectedError('RabbitMQ sent basic.nack', { isPermanent: false }));
      return;
    }
    if (isUnroutable) this.onUnroutable(message.type);
    message.resolve();
  }

  /** The broker closes the channel over a message that it cannot accept. */
  private onChannelError(connection: ChannelModel, error: ChannelError): void {
    const isTooLarge = error.code === PRECONDITION_FAILED;
    const isForbiddenTopic = error.code === ACCESS_REFUSED && error.message.includes('topic');
    if (isTooLarge || isForbiddenTopic) {
      if (this.unconfirmed.size === 1) {
        this.rejectUnconfirmed(new EventRejectedError(error.message, { isPermanent: true }));
      } else {
        this.serialMessagesLeft = SERIAL_MESSAGES;
      }
    }
    this.disconnect(error.message);
    void closeOrCut(connection);
  }

  private unblock(): void {
    this.isBlocked = false;
    const now = performance.now();
    for (const message of this.unconfirmed.values()) {
      message.sentAt = now;
    }
  }

  private checkConfirms(): void {
    if (this.isBlocked) return;
    const oldestAllowed = performance.now() - CONFIRM_TIMEOUT_MS;
    const isLate = [...this.unconfirmed.values()].some(({ sentAt }) => sentAt < oldestAllowed);
    if (!isLate) return;
    void this.close(`RabbitMQ has not confirmed a message for ${CONFIRM_TIMEOUT_MS} ms`);
  }

  private disconnect(reason: string): void {
    clearInterval(this.confirmCheck);
    this.connection = undefined;
    this.channel = undefined;
    this.isBlocked = false;
    this.returnedIds.clear();
    this.rejectUnconfirmed(new BrokerUnavailableError(reason));
  }

  private rejectUnconfirmed(error: Error): void {
    const messages = [...this.unconfirmed.values()];
    this.unconfirmed.clear();
    for (const { reject } of messages) reject(error);
  }
}

interface ChannelError extends Error {
  /** Of AMQP. */
  readonly code?: number;
}

function messageFor(event: StoredEvent): { content: Buffer; properties: Options.Publish } {
  const cloudEvent = cloudEventOf(event);
  const { traceparent } = cloudEvent;
  const headers = traceparent === undefined ? {} : { headers: { traceparent } };
  return {
    content: Buffer.from(JSON.stringify(cloudEvent)),
    properties: {
      persistent: true,
      mandatory: true,
      messageId: event.id,
      type: event.type,
      timestamp: Math.floor(event.occurredAt.getTime() / 1_000),
      contentType: CLOUD_EVENT_JSON,
      ...headers,
    },
  };
}

const unsendable = (error: unknown): EventRejectedError =>
  new EventRejectedError(`the message cannot be encoded: ${messageOf(error)}`, {
    isPermanent: true,
  });

const messageOf = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error);
  return error.message || error.name;
};

/** Closes the connection, or cuts its socket when the broker does not answer. Never throws. */
async function closeOrCut(connection: ChannelModel): Promise<void> {
  try {
    await withDeadline(CLOSE_TIMEOUT_MS, 'Closing the RabbitMQ connection', connection.close());
  } catch {
    // amqplib has no call that closes a connection without an answer.
    const { stream } = connection.connection as unknown as { stream: { destroy(): void } };
    stream.destroy();
  }
}
