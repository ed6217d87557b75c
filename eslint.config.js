import tseslint from 'typescript-eslint';

/** docs/style.md, "Code": one idea a statement. Each entry names what to write instead. */
const ONE_IDEA_A_STATEMENT = [
  {
    selector:
      ':matches(IfStatement, ConditionalExpression, WhileStatement) > ConditionalExpression.test',
    message: 'Name the condition: no ternary inside a condition.',
  },
  {
    selector: 'ConditionalExpression ConditionalExpression',
    message: 'Use a table, an if or a function: no ternary inside a ternary.',
  },
  {
    selector:
      ':matches(ForStatement, ForOfStatement, ForInStatement, WhileStatement)[body.type="EmptyStatement"]',
    message: 'Give the loop a body.',
  },
  {
    selector: 'IfStatement > IfStatement.alternate > IfStatement.alternate > IfStatement.alternate',
    message: 'Use a table or a function for each case: more than two "else if".',
  },
  {
    selector:
      ':matches(CallExpression, ReturnStatement, ConditionalExpression, LogicalExpression, ArrayExpression) > AssignmentExpression[operator="="]',
    message: 'Assign in a statement of its own.',
  },
];

export default tseslint.config(
  // The programs in clients/ import what a test generates.
  {
    ignores: [
      ...['dist/**', 'node_modules/**', 'docs/**', '.data/**'],
      'test/platform/http/openapi/clients/**',
    ],
  },
  ...tseslint.configs.recommended,
  {
    files: ['**/*.ts', '**/*.mjs', '**/*.js'],
    rules: {
      curly: ['error', 'multi-line', 'consistent'],
      eqeqeq: ['error', 'always'],
      'no-sequences': ['error', { allowInParentheses: false }],
      'no-cond-assign': ['error', 'always'],
      'no-restricted-syntax': ['error', ...ONE_IDEA_A_STATEMENT],
      'no-console': 'error',
    },
  },
  {
    files: ['**/*.ts'],
    languageOptions: {
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname },
    },
    rules: {
      // A promise that nobody awaits is a write that nobody acknowledged.
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/no-misused-promises': [
        'error',
        { checksVoidReturn: { arguments: false, attributes: false } },
      ],
      '@typescript-eslint/await-thenable': 'error',
      '@typescript-eslint/return-await': ['error', 'error-handling-correctness-only'],
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_' }],
      '@typescript-eslint/consistent-type-imports': 'off',
    },
  },
  { files: ['scripts/**', 'test/**', 'src/cli/**'], rules: { 'no-console': 'off' } },
);
