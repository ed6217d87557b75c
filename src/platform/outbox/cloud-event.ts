/**
 * The message that consumers receive for a domain event: CloudEvents 1.0.2 as JSON in structured
 * mode (JSON format, section 3; AMQP binding, section 3.2) with the distributed tracing extension.
 * docs/reference/events.md describes it for consumers.
 */

/** An event in the outbox. */
export interface StoredEvent {
  readonly id: string;
  readonly type: string;
  readonly subject: string;
  readonly data: Readonly<Record<string, unknown>>;
  readonly traceParent: string | null;
  readonly occurredAt: Date;
}

export interface CloudEvent {
  readonly specversion: '1.0';
  /** The same in every delivery: consumers recognise repeats by it. */
  readonly id: string;
  readonly source: '/holdfast';
  readonly type: string;
  /** The aggregate, e.g. `orders/<id>`. */
  readonly subject: string;
  /** When the event happened, in RFC 3339. */
  readonly time: string;
  readonly datacontenttype: 'application/json';
  /** W3C Trace Context of the request that caused the event. */
  readonly traceparent?: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export const CLOUD_EVENT_JSON = 'application/cloudevents+json';

export const cloudEventOf = ({
  id,
  type,
  subject,
  data,
  traceParent,
  occurredAt,
}: StoredEvent): CloudEvent => ({
  specversion: '1.0',
  id,
  source: '/holdfast',
  type,
  subject,
  time: occurredAt.toISOString(),
  datacontenttype: 'application/json',
  ...(traceParent === null ? {} : { traceparent: traceParent }),
  data,
});
