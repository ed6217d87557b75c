/** What is said to and by the routes of accounts and sessions. */
import { applyDecorators } from '@nestjs/common';
import { ApiProperty, ApiSchema } from '@nestjs/swagger';
import { Transform } from 'class-transformer';
import { Email, Id, Text, Time } from '../http/fields.js';
import { Username } from '../users/users.dto.js';
import type { Session } from './session.entity.js';

const EXAMPLE_PASSWORD = 'a lighthouse keeper counts waves';

/** 15 to 128 code points of any Unicode, counted in NFC; control characters are refused as everywhere. */
const NewPassword = (example = EXAMPLE_PASSWORD): PropertyDecorator =>
  applyDecorators(
    Text({
      min: 15,
      max: 128,
      format: 'password',
      example,
      description: 'Any Unicode; not a common one, not made of the username or email address.',
    }),
    Transform(({ value }: { value: unknown }) =>
      typeof value === 'string' ? value.normalize('NFC') : value,
    ),
  );

/** A password that is only compared: whatever it is, it is right or wrong. */
const GivenPassword = (): PropertyDecorator =>
  Text({ min: 1, max: 1024, format: 'password', example: EXAMPLE_PASSWORD });

export class RegisterUser {
  @Username({ example: 'ada' })
  username: string;

  @Email({ example: 'ada@example.com', description: 'Unique whatever its case.' })
  email: string;

  @NewPassword()
  password: string;
}

export class ChangePassword {
  @GivenPassword()
  currentPassword: string;

  @NewPassword('the tide takes back its seven stones')
  newPassword: string;
}

export class LogIn {
  @Text({ min: 1, max: 254, example: 'ada', description: 'The username or the email address.' })
  username: string;

  @GivenPassword()
  password: string;
}

@ApiSchema({ name: 'Session' })
export class SessionView {
  @Id({ example: '0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6a' })
  id: string;
  @Id({ example: '0198c5a2-7d1e-7c3a-9f00-1f2e3d4c5b6b' })
  userId: string;
  @Time({ example: '2026-01-31T09:30:00.000Z' })
  createdAt: string;
  @Time({ example: '2026-01-31T09:31:00.000Z', description: 'Up to a minute late.' })
  lastSeenAt: string;
  @Time({ example: '2026-02-01T09:30:00.000Z', description: 'It ends then at the latest.' })
  expiresAt: string;
  @Time({
    example: '2026-01-31T10:31:00.000Z',
    description: 'It ends then unless it is used before.',
  })
  idleExpiresAt: string;
  @ApiProperty({ type: String, nullable: true, example: 'curl/8.0' })
  userAgent: string | null;
  @ApiProperty({ type: String, nullable: true, example: '192.0.2.1' })
  ip: string | null;
  @ApiProperty({
    type: Boolean,
    example: true,
    description: 'Whether this is the session of this request.',
  })
  current: boolean;
}

@ApiSchema({ name: 'NewSession' })
export class NewSessionView extends SessionView {
  @ApiProperty({
    type: String,
    description: 'Shown this once: send it as "Authorization: Bearer <token>".',
    example: 'hf_3q2-7wAAbCdEfGhIjKlMnOpQrStUvWxYz0123456789',
  })
  token: string;
}

export class SessionList {
  @ApiProperty({ type: SessionView, isArray: true })
  data: SessionView[];
  @ApiProperty({
    type: 'null',
    description: 'Always null: a user has few sessions.',
    example: null,
  })
  next: string | null;
}

export function sessionView(session: Session, idleSeconds: number, currentId: string): SessionView {
  const { id, userId, createdAt, lastSeenAt, expiresAt, userAgent, ip } = session;
  const idleEnd = Math.min(lastSeenAt.getTime() + idleSeconds * 1000, expiresAt.getTime());
  return {
    id,
    userId,
    createdAt: createdAt.toISOString(),
    lastSeenAt: lastSeenAt.toISOString(),
    expiresAt: expiresAt.toISOString(),
    idleExpiresAt: new Date(idleEnd).toISOString(),
    userAgent,
    ip,
    current: id === currentId,
  };
}
