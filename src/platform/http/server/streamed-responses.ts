/**
 * Sends responses as streams, as fast as the client reads. A client that stops reading is
 * disconnected like any other one (bounds/stalled-readers.ts), which releases the source.
 */
import { Readable } from 'node:stream';
import type { FastifyReply } from 'fastify';

/** Node's clients read it from `response.trailers`. Clients that know no trailers ignore it. */
const TOTAL_COUNT = 'X-Total-Count';

const countLines = (text: string): number => text.split('\n').length - 1;

/**
 * Sends chunks of whole lines. A complete response ends with the trailer field `X-Total-Count`: the
 * number of lines. When `chunks` throws, the connection is closed without it. When the response
 * ends, for any reason, the iterator is closed (`return()`). For HEAD, `chunks` is not read at all.
 */
export function sendLines(reply: FastifyReply, chunks: AsyncIterable<string>): void {
  const { method, raw } = reply.request;
  if (method === 'HEAD') {
    // A stream, as for GET: a text would have a Content-Length.
    void reply.send(Readable.from([]));
    return;
  }
  let count = 0;
  const counted = async function* (): AsyncGenerator<string> {
    for await (const chunk of chunks) {
      yield chunk;
      count += countLines(chunk);
    }
  };
  // Before HTTP/1.1 there are no chunks, and so no trailers.
  const hasTrailers = raw.httpVersion !== '1.0';
  if (hasTrailers) void reply.trailer(TOTAL_COUNT, () => Promise.resolve(String(count)));
  void reply.send(Readable.from(counted(), { highWaterMark: 1 }));
}
