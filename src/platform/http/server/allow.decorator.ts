/** `@Allow(action)`: names the row of the policy table that decides who may call a route. */
import { SetMetadata } from '@nestjs/common';

/** Metadata key of a route's action. The guard and the generated documentation read it. */
export const ALLOW = 'holdfast:allow';

/** @param action a row of POLICY (src/platform/access/policy.ts); any other rejects all callers */
export const Allow = (action: string): MethodDecorator => SetMetadata(ALLOW, action);
