/**
 * The connection to RabbitMQ and one confirm channel on it. {@link Broker.publish} resolves only when the broker has taken
 * responsibility for the message, and what it rejects with says who is at fault: this event, or nobody but the connection.
 * Every wait is bounded; while the broker blocks publishers (memory, disk) the heartbeats are the bound.
 */
import { type ChannelModel, connect, type ConfirmChannel, type Message } from 'amqplib';
import { CLOUD_EVENT_JSON, cloudEventOf, type StoredEvent } from './cloud-event.js';

/** Durable, of type topic; the routing key is the event's type. */
export const EXCHANGE = 'holdfast.events';
/** Seconds. A broker that hangs is noticed after two missed heartbeats, not after TCP's minutes. */
const HEARTBEAT = 5;
const CONNECT_MS = 2_000;
const CONFIRM_MS = 5_000;
const CLOSE_MS = 500;
/** After a channel was closed because of one of several messages, so many are sent one at a time: then it is known which. */
const CAREFULLY = 2_000;

/** The event itself was refused. `forGood`: no repeat can succeed before somebody changes something. */
export class EventRefusedError extends Error {
  override readonly name = 'EventRefusedError';
  constructor(
    message: string,
    readonly forGood: boolean,
  ) {
    super(message);
  }
}

/** The connection ended, or its time, before the broker had said yes or no: the event may have arrived. */
export class BrokerGoneError extends Error {
  override readonly name = 'BrokerGoneError';
}

export type BrokerState = 'off' | 'connected' | 'blocked' | 'disconnected';

/** Messages of the channel that the broker has not answered yet. */
interface Flight {
  readonly sent: number;
  fail(error: Error): void;
}

export class Broker {
  private connection: ChannelModel | undefined;
  private channel: ConfirmChannel | undefined;
  private blocked = false;
  private readonly flights = new Map<string, Flight>();
  private readonly returned = new Set<string>();
  private watch: NodeJS.Timeout | undefined;
  private careful = 0;
  private alone: Promise<void> = Promise.resolve();

  /** @param onUnroutable told of each event that no queue is bound for: it counts as delivered */
  constructor(
    private readonly url: string,
    private readonly onUnroutable: (type: string) => void,
  ) {}

  get state(): BrokerState {
    if (!this.channel) return 'disconnected';
    return this.blocked ? 'blocked' : 'connected';
  }

  /** Connects and declares the exchange; nothing to do when connected. @throws BrokerGoneError */
  async open(): Promise<void> {
    if (this.channel) return;
    const address = new URL(this.url);
    if (!address.searchParams.has('heartbeat'))
      address.searchParams.set('heartbeat', String(HEARTBEAT));
    const client = { connection_name: `holdfast ${process.pid}` };
    let connection: ChannelModel | undefined;
    try {
      connection = await connect(address.href, {
        timeout: CONNECT_MS,
        noDelay: true,
        clientProperties: client,
      });
      this.listen(connection);
      const channel = await within(CONNECT_MS, connection.createConfirmChannel());
      this.attend(connection, channel);
      await within(CONNECT_MS, channel.assertExchange(EXCHANGE, 'topic', { durable: true }));
      this.connection = connection;
      this.channel = channel;
      this.watch = setInterval(() => this.lookAtFlights(), 250).unref();
    } catch (error) {
      if (connection) await hangUp(connection);
      throw new BrokerGoneError(`RabbitMQ: ${messageOf(error)}`, { cause: error });
    }
  }

  /** Closes the connection; what is under way fails with BrokerGoneError. */
  async close(reason = 'the connection was closed'): Promise<void> {
    const { connection } = this;
    this.lose(reason);
    if (connection) await hangUp(connection);
  }

  /** Resolves when the broker has confirmed. @throws EventRefusedError, BrokerGoneError */
  publish(event: StoredEvent): Promise<void> {
    if (this.careful === 0) return this.send(event);
    this.careful--;
    const sent = this.alone.then(() => this.send(event));
    this.alone = sent.catch(() => undefined);
    return sent;
  }

  private send(event: StoredEvent): Promise<void> {
    const { channel } = this;
    const { id, type } = event;
    return new Promise((resolve, reject) => {
      if (!channel) return reject(new BrokerGoneError('the channel has closed'));
      const fail = (error: Error): void => {
        this.flights.delete(id);
        reject(error);
      };
      const answered = (error: Error | null): void => {
        const unroutable = this.returned.delete(id);
        // A channel that closed is told of by `attend`, which knows why.
        if (!this.flights.has(id) || error?.message === 'channel closed') return;
        if (error) return fail(new EventRefusedError('the broker refused it (basic.nack)', false));
        this.flights.delete(id);
        if (unroutable) this.onUnroutable(type);
        resolve();
      };
      this.flights.set(id, { sent: performance.now(), fail });
      try {
        const cloudEvent = cloudEventOf(event);
        const { traceparent } = cloudEvent;
        channel.publish(
          EXCHANGE,
          type,
          Buffer.from(JSON.stringify(cloudEvent)),
          {
            persistent: true,
            mandatory: true,
            messageId: id,
            type,
            timestamp: Math.floor(event.occurredAt.getTime() / 1000),
            contentType: CLOUD_EVENT_JSON,
            ...(traceparent === undefined ? {} : { headers: { traceparent } }),
          },
          answered,
        );
      } catch (error) {
        const gone = this.channel !== channel || (error as Error).name === 'IllegalOperationError';
        const message = messageOf(error);
        fail(
          gone
            ? new BrokerGoneError(message)
            : new EventRefusedError(`it cannot be sent: ${message}`, true),
        );
      }
    });
  }

  private listen(connection: ChannelModel): void {
    connection.on('error', () => undefined);
    connection.on('close', (error?: Error) => {
      if (this.connection === connection)
        this.lose(`the connection has closed${error ? `: ${error.message}` : ''}`);
    });
    connection.on('blocked', () => (this.blocked = true));
    connection.on('unblocked', () => {
      this.blocked = false;
      const now = performance.now();
      for (const [id, flight] of this.flights) this.flights.set(id, { ...flight, sent: now });
    });
  }

  private attend(connection: ChannelModel, channel: ConfirmChannel): void {
    channel.on(
      'return',
      ({ properties }: Message) => void this.returned.add(String(properties.messageId)),
    );
    channel.on('error', (error: Error & { code?: number }) => {
      if (this.channel !== channel) return;
      // Some message was at fault: too large for the broker, or of a topic that this user may not write.
      const atFault = error.code === 406 || (error.code === 403 && error.message.includes('topic'));
      const [only] = this.flights.values();
      if (atFault && only && this.flights.size === 1)
        only.fail(new EventRefusedError(error.message, true));
      else if (atFault) this.careful = CAREFULLY;
      this.lose(error.message);
      void hangUp(connection);
    });
    channel.on('close', () => {
      if (this.channel === channel) this.lose('the channel has closed');
    });
  }

  private lookAtFlights(): void {
    const now = performance.now();
    const late = [...this.flights.values()].some(({ sent }) => now - sent > CONFIRM_MS);
    if (late && !this.blocked) void this.close(`the broker has not confirmed for ${CONFIRM_MS} ms`);
  }

  private lose(reason: string): void {
    clearInterval(this.watch);
    this.connection = this.channel = undefined;
    this.blocked = false;
    this.returned.clear();
    for (const flight of [...this.flights.values()]) flight.fail(new BrokerGoneError(reason));
  }
}

const messageOf = (error: unknown): string =>
  error instanceof Error ? error.message || error.name : String(error);

function within<T>(ms: number, promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('no answer in time')), ms);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** In order, or, when the broker does not answer, by cutting the socket, which amqplib has no call for. */
async function hangUp(connection: ChannelModel): Promise<void> {
  await within(CLOSE_MS, connection.close()).catch(() => {
    const { stream } = connection.connection as unknown as { stream: { destroy(): void } };
    stream.destroy();
  });
}
