'use strict';
const { main } = require('./harness');
require('./checks');
require('./transport');

main().then(
  () => process.exit(0),
  error => {
    console.error(error);
    process.exit(1);
  },
);
