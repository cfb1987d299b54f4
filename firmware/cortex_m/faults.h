#ifndef HWNAS_FAULT_HANDLER_H
#define HWNAS_FAULT_HANDLER_H

/* Exception handlers: report where the core was, then restart. */
void hwnas_fault_exception(void);
void hwnas_watchdog_exception(void);

#endif
