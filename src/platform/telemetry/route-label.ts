/** The route of a request as a label of metrics, spans and log lines. */
import type { FastifyRequest } from 'fastify';

/**
 * The route's pattern, e.g. `/v1/orders/:id`. Unknown paths share the label `unknown`: the number
 * of labels must not grow with what callers send.
 */
export const routeLabelOf = ({ is404, routeOptions }: FastifyRequest): string =>
  (is404 ? undefined : routeOptions.url) ?? 'unknown';
