/**
 * A domain event as it leaves: CloudEvents 1.0.2 in JSON, structured mode (JSON format, section 3; AMQP binding, section
 * 3.2), with the distributed tracing extension. docs/events.md tells consumers what is in it.
 */

/** An event as the outbox holds it. */
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
  /** The same for every delivery: what a consumer tells repeats by. */
  readonly id: string;
  readonly source: '/holdfast';
  readonly type: string;
  /** The aggregate, e.g. `orders/<id>`. */
  readonly subject: string;
  /** RFC 3339, when it happened. */
  readonly time: string;
  readonly datacontenttype: 'application/json';
  /** W3C Trace Context of the request that caused it. */
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
