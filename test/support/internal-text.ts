/** Text that must not leave the service: stacks, SQL, and messages of parsers and libraries. */
export const INTERNAL_TEXT = new RegExp(
  [
    String.raw`\bat \S+ \(|node_modules|\.ts:\d|\.js:\d`,
    String.raw`\b(?:SELECT|INSERT|UPDATE|DELETE) |QueryFailed|constraint`,
    String.raw`Unexpected token|in JSON at|FST_|HPE_|class-validator|undefined`,
  ].join('|'),
);
